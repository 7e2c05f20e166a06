// An encoder as its two halves, where a bundle has it as two graphs: an image is encoded once, and asked as often as
// there are questions. What runtime/halves.py is for Python.
#pragma once

#include "backends/backend.hpp"

namespace edgeprune {

// The name of what lies between: all that the second half needs of the pixels, in one piece of memory.
inline constexpr const char *SEEN = "seen";

// As a whole it takes and gives what the encoder does. The halves are backends of their own:
//
//     encode   pixel_values -> seen
//     select   seen, what the image is asked with -> the outputs of the encoder
class Halves : public Backend {
  public:
    virtual Backend &encode() = 0;
    virtual Backend &select() = 0;
};

// Throws wrong_request where the bundle was not split, or the device runs no graphs.
void check_halves(const Bundle &bundle, edgeprune_device device);

// On a device of ONNX Runtime. Throws as open_backend does.
std::unique_ptr<Halves> open_halves(Bundle &bundle, const Choice &choice);

}  // namespace edgeprune
