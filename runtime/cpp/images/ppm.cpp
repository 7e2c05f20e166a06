#include "images/ppm.hpp"

#include "error.hpp"

namespace edgeprune {
namespace {

constexpr std::size_t MOST = 1u << 29;  // pixels a side, so that no product of two sides and 3 overflows

Error damaged(const std::string &why) {
    return bad_image("an image must be a binary PPM or PGM of 8 bits (P6 or P5); this one ", why,
                     "; convert it, for example by `convert picture.png -depth 8 picture.ppm`");
}

bool blank(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The numbers of the header, one after the other; a comment reaches from # to the end of its line.
class Header {
  public:
    Header(const unsigned char *file, std::size_t nbytes) : file_(file), nbytes_(nbytes) {}

    std::size_t number(const char *what) {
        for (bool comment = false; at_ < nbytes_ && (comment || blank(file_[at_]) || file_[at_] == '#'); ++at_)
            comment = file_[at_] == '#' || (comment && file_[at_] != '\n' && file_[at_] != '\r');
        std::size_t value = 0;
        const std::size_t first = at_;
        for (; at_ < nbytes_ && file_[at_] >= '0' && file_[at_] <= '9'; ++at_) {
            value = 10 * value + (file_[at_] - '0');
            if (value > MOST) throw damaged(line("has a ", what, " of more than ", MOST));
        }
        if (at_ == first) throw damaged(line("has no ", what, " where its header must have it"));
        return value;
    }

    // The pixels begin behind a single blank.
    std::size_t end() const {
        if (at_ >= nbytes_ || !blank(file_[at_])) throw damaged("ends in its header");
        return at_ + 1;
    }

  private:
    const unsigned char *file_;
    std::size_t nbytes_, at_ = 2;
};

}  // namespace

Picture read_ppm(const unsigned char *file, std::size_t nbytes) {
    if (nbytes < 2 || file[0] != 'P' || (file[1] != '5' && file[1] != '6')) throw damaged("begins with something else");
    const std::size_t channels = file[1] == '6' ? 3 : 1;
    Header header(file, nbytes);
    Picture picture;
    picture.width = header.number("width");
    picture.height = header.number("height");
    const std::size_t white = header.number("value for white");
    const std::size_t begin = header.end();
    if (!picture.width || !picture.height)
        throw bad_image("an image must have at least one pixel; got ", picture.width, "x", picture.height);
    if (white != 255) throw damaged(line("has ", white, " for white, and must have 255"));
    const std::size_t row = channels * picture.width, have = nbytes - begin;
    if (have / row < picture.height)  // before any memory is asked for: the file has what its header says
        throw damaged(line("must have ", picture.height, " rows of ", row, " bytes behind its header, and has ", have,
                           " bytes"));
    const unsigned char *from = file + begin;
    if (channels == 3) {
        picture.pixels.assign(from, from + row * picture.height);
    } else {
        picture.pixels.resize(3 * row * picture.height);
        for (std::size_t i = 0; i < picture.pixels.size(); ++i) picture.pixels[i] = from[i / 3];
    }
    return picture;
}

}  // namespace edgeprune
