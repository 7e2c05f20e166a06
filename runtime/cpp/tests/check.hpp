// What a test program says of what it finds: every failure with its line, and at the end whether there was one.
#pragma once

#include <cstdio>
#include <string>

#include "error.hpp"

namespace check {

inline int failures = 0;

inline void fail(const std::string &text, const char *file, int line) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, text.c_str());
    ++failures;
}

inline void holds(bool it, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!it) fail("does not hold", file, line);
}

template <class A, class B>
void same(const A &got, const B &expected, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!(got == expected)) fail(edgeprune::line("got ", got, ", expected ", expected), file, line);
}

// What `call` throws, "" where it throws nothing.
template <class Call>
std::string refusal(Call call) {
    try {
        call();
    } catch (const edgeprune::Error &error) {
        return error.what();
    }
    return "";
}

// For `return` of main.
inline int done() { return failures ? 1 : 0; }

}  // namespace check
