// spread: two rows of seconds from standard input, as many each -> value, interval and doubt of their ratio, in lines.
#include <cstdio>
#include <iostream>
#include <iterator>

#include "tools/spread.hpp"

int main() {
    using namespace edgeprune::tools;
    const Seconds both{std::istream_iterator<double>(std::cin), {}};
    const auto half = both.begin() + static_cast<std::ptrdiff_t>(both.size() / 2);
    const Ratio ratio = ratio_of({both.begin(), half}, {half, both.end()}, "this", "the other");
    std::printf("%.17g\n", ratio.value);
    if (ratio.has_interval) std::printf("%.17g %.17g\n", ratio.interval.first, ratio.interval.second);
    else std::printf("\n");
    std::printf("%s\n", ratio.doubt.c_str());
    return 0;
}
