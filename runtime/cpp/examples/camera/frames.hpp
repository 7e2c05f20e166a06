// Frames: where they come from, and how the latest one reaches the thread that runs the encoder.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

struct Frame {
    std::size_t width = 0, height = 0, number = 0;
    std::vector<std::uint8_t> rgb;  // [height, width, 3]; keeps its memory from frame to frame
};

// What makes frames. `next` fills one, or says that there are no more; both throw std::runtime_error.
class Source {
  public:
    virtual ~Source() = default;
    virtual bool next(Frame &frame) = 0;
};
std::unique_ptr<Source> open_stream(const std::string &path);                  // stream.cpp
std::unique_ptr<Source> open_v4l2(const std::string &path, int width, int height);  // v4l2.cpp

// Three frames change hands, and none is copied: one is filled, one waits, one is looked at. A frame that waits when the
// next one is ready is passed over, so that what is looked at is never older than the time of one run.
class Mailbox {
  public:
    // every: wait until a frame was taken instead of passing it over, for files.
    explicit Mailbox(bool every) : every_(every) {}

    // Of the capturing thread. Hands over what it has filled, for one to fill; false: the other side has gone.
    bool put(Frame &filled) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (every_) changed_.wait(lock, [this] { return !full_ || closed_; });
        if (closed_) return false;
        passed_over_ += full_ ? 1 : 0;
        std::swap(waiting_, filled);
        full_ = true;
        changed_.notify_all();
        return true;
    }
    // Of the running thread. The latest frame for the one that was looked at; false: there will be no more.
    bool take(Frame &looked_at) {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return full_ || closed_; });
        if (!full_) return false;
        std::swap(waiting_, looked_at);
        full_ = false;
        changed_.notify_all();
        return true;
    }
    // Of either thread: there is no more, or no need for it.
    void close() {
        const std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
        changed_.notify_all();
    }
    std::size_t passed_over() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return passed_over_;
    }

  private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    Frame waiting_;
    bool full_ = false, closed_ = false;
    const bool every_;
    std::size_t passed_over_ = 0;
};
