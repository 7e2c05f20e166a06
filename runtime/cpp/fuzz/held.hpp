// What must hold of every input: it is taken, or refused in one line that can be printed. Anything else ends the run.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

#include "bundle/sha256.hpp"
#include "bundle/shown.hpp"
#include "bundle/value.hpp"
#include "error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);

namespace held {

using namespace edgeprune;

inline void must(bool holds) {
    if (!holds) std::abort();
}

// Whether `call` takes it.
template <class Call>
bool taken(Call call) {
    try {
        call();
        return true;
    } catch (const Error &error) {
        const std::string line = error.what();
        must(!line.empty() && is_utf8(line) && is_printable(line));
        return false;
    }
}

// The text of a manifest with a digest that is right, so that what lies behind the digest is reached.
inline std::string sealed(Value manifest) {
    if (auto *members = std::get_if<Object>(&manifest.is)) {
        for (auto member = members->begin(); member != members->end();)
            member = member->first == "digest" ? members->erase(member) : member + 1;
        const std::string content = canonical(manifest);
        members->emplace_back("digest", Value{sha256(content.data(), content.size())});
    }
    return canonical(manifest);
}

}  // namespace held
