// Frames from a file or pipe: PPM images (P6) one behind the other, as `ffmpeg -i clip.mp4 -f image2pipe -c:v ppm -`
// writes them. "-" is standard input.
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "frames.hpp"

namespace {

constexpr std::size_t MOST = 1 << 15;  // pixels of a side

class Stream : public Source {
  public:
    explicit Stream(const std::string &path) : path_(path), file_(path == "-" ? stdin : std::fopen(path.c_str(), "rb")) {
        if (file_ == nullptr) throw std::runtime_error(path + ": " + std::strerror(errno));
    }
    ~Stream() override {
        if (file_ != stdin) std::fclose(file_);
    }

    bool next(Frame &frame) override {
        const int first = std::fgetc(file_);
        if (first == EOF) return false;
        if (first != 'P' || std::fgetc(file_) != '6') throw std::runtime_error(path_ + ": a frame must be a PPM of P6");
        frame.width = number();
        frame.height = number();
        const std::size_t largest = number();
        if (frame.width < 1 || frame.width > MOST || frame.height < 1 || frame.height > MOST || largest != 255)
            throw std::runtime_error(path_ + ": a frame must have 1..32768 pixels a side, and 255 as its largest value");
        frame.rgb.resize(3 * frame.width * frame.height);
        if (std::fread(frame.rgb.data(), 1, frame.rgb.size(), file_) != frame.rgb.size())
            throw std::runtime_error(path_ + ": the last frame is not complete");
        frame.number = count_++;
        return true;
    }

  private:
    // A number of the header, and the one character of white space behind it.
    std::size_t number() {
        int one = std::fgetc(file_);
        while (std::isspace(one) || one == '#') {
            if (one == '#')
                while (one != '\n' && one != EOF) one = std::fgetc(file_);
            one = std::fgetc(file_);
        }
        std::size_t value = 0;
        for (; std::isdigit(one) && value <= MOST; one = std::fgetc(file_)) value = 10 * value + (one - '0');
        return value;
    }

    std::string path_;
    std::FILE *file_;
    std::size_t count_ = 0;
};

}  // namespace

std::unique_ptr<Source> open_stream(const std::string &path) { return std::make_unique<Stream>(path); }
