// images/ppm: what is read, and that a file which lies is refused in one line.
#include <cstdio>
#include <string>

#include "error.hpp"
#include "images/ppm.hpp"

using namespace edgeprune;

static int failures = 0;

static Picture read(const std::string &file) {
    return read_ppm(reinterpret_cast<const unsigned char *>(file.data()), file.size());
}

static void expect(bool holds, const char *what) {
    if (!holds) std::printf("FAILED: %s\n", what), ++failures;
}

static void refused(const std::string &file, const char *because) {
    try {
        read(file);
        std::printf("FAILED: not refused: %s\n", because), ++failures;
    } catch (const Error &error) {
        const std::string said = error.what();
        expect(error.status == EDGEPRUNE_BAD_IMAGE && said.find(because) != std::string::npos &&
                   said.find('\n') == std::string::npos,
               error.what());
    }
}

int main() {
    const Picture colour = read("P6\n# a comment\n2 1 # and another\n255\nabcdefrest");
    expect(colour.width == 2 && colour.height == 1, "the size of a P6");
    expect(std::string(colour.pixels.begin(), colour.pixels.end()) == "abcdef", "the pixels of a P6, and no more");
    const Picture grey = read("P5 1\t2\r255 \x01\xff");
    expect(grey.pixels == std::vector<std::uint8_t>({1, 1, 1, 255, 255, 255}), "grey becomes RGB");

    refused("", "begins with something else");
    refused("P", "begins with something else");
    refused("P3\n1 1\n255\n1 2 3", "begins with something else");
    refused("P6", "has no width");
    refused("P6\n1 # cut", "has no height");
    refused("P6\n1 1\n255", "ends in its header");
    refused("P6\n1 -1\n255\nabc", "has no height");
    refused("P6\n0 1\n255\nabc", "at least one pixel; got 0x1");
    refused("P6\n1 1\n65535\nabcdef", "has 65535 for white, and must have 255");
    refused("P6\n1 2\n255\nabcde", "must have 2 rows of 3 bytes behind its header, and has 5 bytes");
    refused("P6\n536870912 536870912\n255\nabc", "must have 536870912 rows");
    refused("P6\n99999999999999999999999999 1\n255\nabc", "has a width of more than");
    for (std::size_t cut = 0; cut < 14; ++cut) refused(std::string("P6\n1 1\n255\nabc").substr(0, cut), "");
    return failures != 0;
}
