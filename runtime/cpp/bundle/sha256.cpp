#include "bundle/sha256.hpp"

#include <algorithm>
#include <memory>

#include <openssl/evp.h>

#include "error.hpp"

namespace edgeprune {

std::string sha256(const void *data, std::size_t nbytes) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    const bool done = context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1 &&
                      EVP_DigestUpdate(context.get(), data, nbytes) == 1 &&
                      EVP_DigestFinal_ex(context.get(), digest, &length) == 1;
    if (!done) throw failed("sha256 cannot be had from libcrypto; install one that has it, or skip the hashes");
    constexpr char DIGITS[] = "0123456789abcdef";
    std::string text;
    for (unsigned at = 0; at < length; ++at) {
        text += DIGITS[digest[at] >> 4];
        text += DIGITS[digest[at] & 0xfU];
    }
    return text;
}

}  // namespace edgeprune
