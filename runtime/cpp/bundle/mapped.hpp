// A file, mapped read-only: what is hashed is what is run, and weights are read once.
#pragma once

#include <cstddef>
#include <string>

namespace edgeprune {

class Mapped {
  public:
    // Throws bad_bundle, naming the file, when it cannot be read or is no file.
    explicit Mapped(const std::string &path);
    ~Mapped();
    Mapped(Mapped &&other) noexcept;
    Mapped &operator=(Mapped &&other) noexcept;

    const unsigned char *data() const { return data_; }
    std::size_t size() const { return size_; }

  private:
    const unsigned char *data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace edgeprune
