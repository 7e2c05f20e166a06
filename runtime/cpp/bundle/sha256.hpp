// sha256 by the system's libcrypto.
#pragma once

#include <cstddef>
#include <string>

namespace edgeprune {

// 64 hexadecimal digits in lower case. Throws failed when libcrypto refuses it, as one in FIPS mode may.
std::string sha256(const void *data, std::size_t nbytes);

}  // namespace edgeprune
