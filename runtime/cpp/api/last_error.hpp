// Why a thread's last failed call failed: text in memory of the thread, so that telling it needs none.
#pragma once

#include <cstdint>

namespace edgeprune {

// `handle`: the number of a handle, 0 for none. Keeps one line of UTF-8: line breaks and other controls become spaces,
// bytes that are no UTF-8 question marks, and the middle of a very long line "...".
void keep_error(std::uint64_t handle, const char *text) noexcept;

// "" where none failed, or so many others failed since that it was forgotten.
const char *last_error(std::uint64_t handle) noexcept;

}  // namespace edgeprune
