// Percentiles, and how much a ratio of two medians is worth: the rule of runtime/ledger/spread.py, with draws of its own.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace edgeprune::tools {

using Seconds = std::vector<double>;

// Between the two nearest of them, as numpy's; `percent` in 0..100. Of at least one value.
double percentile(Seconds values, double percent);

struct Ratio {
    double value = 1;
    bool has_interval = false;
    std::pair<double, double> interval;  // in which it lies with 95 %; none of fewer than 6 rounds
    std::string doubt;                   // why the value says too little to be told; empty where it may be told
};

// median(seconds) / median(other), of runs in turns: the n-th of both in the same round.
Ratio ratio_of(const Seconds &seconds, const Seconds &other, const std::string &name, const std::string &other_name);

// Whether the ratios of one graph to each other one can be told, by what was measured so far.
bool settled(const std::map<std::string, Seconds> &times, const std::string &name);

}  // namespace edgeprune::tools
