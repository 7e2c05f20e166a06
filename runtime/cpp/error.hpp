// What is thrown inside the library, and caught at its border (`api/`): a status, and a line for whoever reads it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "edgeprune.h"

namespace edgeprune {

struct Error : std::runtime_error {
    Error(edgeprune_status status, const std::string &line) : std::runtime_error(line), status(status) {}
    edgeprune_status status;
};

// The line of an error, from its pieces: throw wrong_request("keep must be in 1..", most, ", got ", keep)
template <class... Parts>
std::string line(const Parts &...parts) {
    std::ostringstream text;
    (text << ... << parts);
    return text.str();
}

template <class... Parts>
Error wrong_request(const Parts &...parts) { return {EDGEPRUNE_WRONG_REQUEST, line(parts...)}; }
template <class... Parts>
Error bad_bundle(const Parts &...parts) { return {EDGEPRUNE_BAD_BUNDLE, line(parts...)}; }
template <class... Parts>
Error bad_image(const Parts &...parts) { return {EDGEPRUNE_BAD_IMAGE, line(parts...)}; }
template <class... Parts>
Error no_device(const Parts &...parts) { return {EDGEPRUNE_NO_DEVICE, line(parts...)}; }
template <class... Parts>
Error failed(const Parts &...parts) { return {EDGEPRUNE_FAILED, line(parts...)}; }

}  // namespace edgeprune
