// A fuzz target without its fuzzer: it is given every file of a folder.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fuzz/held.hpp"

int main(int count, char **words) {
    int ran = 0;
    for (const auto &entry : std::filesystem::directory_iterator(count > 1 ? words[1] : ".")) {
        std::ifstream file(entry.path(), std::ios::binary);
        const std::vector<char> content{std::istreambuf_iterator<char>(file), {}};
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t *>(content.data()), content.size());
        ++ran;
    }
    std::printf("%d seeds\n", ran);
    return ran ? 0 : 1;
}
