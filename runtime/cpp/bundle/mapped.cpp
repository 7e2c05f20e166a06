#include "bundle/mapped.hpp"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {

Mapped::Mapped(const std::string &path, const std::string &name) {
    const std::string said = shown(name);
    struct stat found;
    // What is no file is not even opened: a pipe would be waited for, and a device may do something.
    if (stat(path.c_str(), &found) || !S_ISREG(found.st_mode))
        throw bad_bundle(said, " is missing; copy the whole bundle");
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int why = descriptor < 0 ? errno : 0;
    if (!why && fstat(descriptor, &found)) why = errno;
    if (!why && !S_ISREG(found.st_mode)) why = EINVAL;
    if (!why) {
        device_ = found.st_dev;
        number_ = found.st_ino;
        seconds_ = found.st_mtim.tv_sec;
        nanoseconds_ = found.st_mtim.tv_nsec;
    }
    if (!why && found.st_size > 0) {
        size_ = static_cast<std::size_t>(found.st_size);
        const bool fits = static_cast<std::uint64_t>(size_) == static_cast<std::uint64_t>(found.st_size);
        void *at = fits ? mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
        if (at == MAP_FAILED) why = fits ? errno : EFBIG;
        else data_ = static_cast<const unsigned char *>(at);
    }
    if (descriptor >= 0) close(descriptor);
    if (why) throw bad_bundle(said, " cannot be read: ", std::strerror(why), "; copy the bundle again");
}

Mapped::~Mapped() {
    if (data_) munmap(const_cast<unsigned char *>(data_), size_);
}

Mapped::Mapped(Mapped &&other) noexcept { *this = std::move(other); }

Mapped &Mapped::operator=(Mapped &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
    std::swap(number_, other.number_);
    std::swap(seconds_, other.seconds_);
    std::swap(nanoseconds_, other.nanoseconds_);
    return *this;
}

bool Mapped::is_at(const std::string &path) const {
    struct stat found;
    return !stat(path.c_str(), &found) && found.st_dev == device_ && found.st_ino == number_ &&
           static_cast<std::size_t>(found.st_size) == size_ && found.st_mtim.tv_sec == seconds_ &&
           found.st_mtim.tv_nsec == nanoseconds_;
}

void Mapped::rest() const {
    if (data_) madvise(const_cast<unsigned char *>(data_), size_, MADV_DONTNEED);
}

}  // namespace edgeprune
