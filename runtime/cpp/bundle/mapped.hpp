// A file, mapped read-only: what is hashed is what is run, and weights are read once.
//
// A mapping follows the file: one that is written over or cut while it is open changes, or ends, under the reader. A
// new bundle takes the place of an old one by a rename, as `edgeprune export` and `edgeprune build` do, never by
// writing into its files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace edgeprune {

// Memory that somebody else owns.
struct Bytes {
    const unsigned char *data;
    std::size_t size;
};

class Mapped {
  public:
    // Throws bad_bundle when it cannot be read or is no file, naming it by its path, or as `name`.
    explicit Mapped(const std::string &path) : Mapped(path, path) {}
    Mapped(const std::string &path, const std::string &name);
    ~Mapped();
    Mapped(Mapped &&other) noexcept;
    Mapped &operator=(Mapped &&other) noexcept;

    const unsigned char *data() const { return data_; }  // nullptr where it is empty
    std::size_t size() const { return size_; }
    operator Bytes() const { return {data_, size_}; }

    // Whether a path still leads to this file, and nobody has written to it since.
    bool is_at(const std::string &path) const;
    // Nobody will read it soon: its pages need not stay in memory, and come back from the file where somebody does.
    void rest() const;

  private:
    const unsigned char *data_ = nullptr;
    std::size_t size_ = 0;
    std::uint64_t device_ = 0, number_ = 0;  // of the file
    std::int64_t seconds_ = 0, nanoseconds_ = 0;  // when it was changed last
};

}  // namespace edgeprune
