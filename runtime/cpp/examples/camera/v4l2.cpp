// Frames of a camera of Linux, /dev/video0: RGB24 where it has that, else YUYV, which nearly all have. Its buffers are
// mapped, and each is given back when its pixels have been taken out of it.
#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "frames.hpp"

namespace {

constexpr unsigned BUFFERS = 4;

std::uint8_t clamped(int value) { return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value); }

// BT.601, limited range, in 8.8 fixed point.
void pixel_of(int y, int u, int v, std::uint8_t *rgb) {
    const int scaled = 298 * (y - 16) + 128, blue = u - 128, red = v - 128;
    rgb[0] = clamped((scaled + 409 * red) >> 8);
    rgb[1] = clamped((scaled - 100 * blue - 208 * red) >> 8);
    rgb[2] = clamped((scaled + 516 * blue) >> 8);
}

class Camera : public Source {
  public:
    Camera(const std::string &path, int width, int height) : path_(path), device_(open(path.c_str(), O_RDWR)) {
        if (device_ < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
        try {
            configure(width, height);
        } catch (...) {
            release();
            throw;
        }
    }
    ~Camera() override { release(); }

    bool next(Frame &frame) override {
        v4l2_buffer buffer = about(0);
        ask(VIDIOC_DQBUF, &buffer, "gives no frame");
        frame.width = format_.fmt.pix.width;
        frame.height = format_.fmt.pix.height;
        frame.rgb.resize(3 * frame.width * frame.height);
        for (std::size_t row = 0; row < frame.height; ++row) {
            const auto *from = static_cast<const std::uint8_t *>(mapped_[buffer.index].data) +
                               row * format_.fmt.pix.bytesperline;
            std::uint8_t *to = frame.rgb.data() + 3 * frame.width * row;
            if (format_.fmt.pix.pixelformat == V4L2_PIX_FMT_RGB24) {
                std::memcpy(to, from, 3 * frame.width);
                continue;
            }
            for (std::size_t column = 0; column + 1 < frame.width; column += 2, from += 4, to += 6) {
                pixel_of(from[0], from[1], from[3], to);
                pixel_of(from[2], from[1], from[3], to + 3);
            }
        }
        frame.number = buffer.sequence;
        ask(VIDIOC_QBUF, &buffer, "takes no buffer back");
        return true;
    }

  private:
    struct Mapped {
        void *data;
        std::size_t nbytes;
    };

    void configure(int width, int height) {
        format_ = {};
        format_.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        for (const std::uint32_t pixels : {V4L2_PIX_FMT_RGB24, V4L2_PIX_FMT_YUYV}) {
            format_.fmt.pix.width = static_cast<std::uint32_t>(width);
            format_.fmt.pix.height = static_cast<std::uint32_t>(height);
            format_.fmt.pix.pixelformat = pixels;
            ask(VIDIOC_S_FMT, &format_, "captures no video");
            if (format_.fmt.pix.pixelformat == pixels) break;
        }
        const std::uint32_t pixels = format_.fmt.pix.pixelformat;
        if (pixels != V4L2_PIX_FMT_RGB24 && pixels != V4L2_PIX_FMT_YUYV)
            throw std::runtime_error(path_ + " must give RGB24 or YUYV; have ffmpeg decode it, and pipe PPM images");
        v4l2_requestbuffers wanted{};
        wanted.count = BUFFERS;
        wanted.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        wanted.memory = V4L2_MEMORY_MMAP;
        ask(VIDIOC_REQBUFS, &wanted, "maps no buffers");
        for (unsigned at = 0; at < wanted.count; ++at) {
            v4l2_buffer buffer = about(at);
            ask(VIDIOC_QUERYBUF, &buffer, "has no such buffer");
            void *data = mmap(nullptr, buffer.length, PROT_READ, MAP_SHARED, device_, buffer.m.offset);
            if (data == MAP_FAILED) throw std::runtime_error(path_ + ": " + std::strerror(errno));
            mapped_.push_back({data, buffer.length});
            ask(VIDIOC_QBUF, &buffer, "takes no buffer");
        }
        int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        ask(VIDIOC_STREAMON, &type, "does not start");
    }

    static v4l2_buffer about(unsigned at) {
        v4l2_buffer buffer{};
        buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        buffer.memory = V4L2_MEMORY_MMAP;
        buffer.index = at;
        return buffer;
    }

    void ask(unsigned long what, void *argument, const char *failing) {
        int done;
        do done = ioctl(device_, what, argument);
        while (done < 0 && errno == EINTR);
        if (done < 0) throw std::runtime_error(path_ + " " + failing + ": " + std::strerror(errno));
    }

    void release() {
        for (const Mapped &one : mapped_) munmap(one.data, one.nbytes);
        close(device_);
    }

    std::string path_;
    int device_;
    v4l2_format format_{};
    std::vector<Mapped> mapped_;
};

}  // namespace

std::unique_ptr<Source> open_v4l2(const std::string &path, int width, int height) {
    return std::make_unique<Camera>(path, width, height);
}
