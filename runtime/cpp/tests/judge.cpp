// Runs the rules of parity on tensors of a file, for the tests in Python that hold them against their own.
//
//     judge CASES.json TENSORS.safetensors
//
// CASES.json: a list of {"dtype", "rule", "whole", "quantised", "reference": [[name, tensor], ...], "got": ..., ...},
// where a tensor is named as in the file. Prints a list of verdicts; {"refused": line} where there is none.
#include <fstream>
#include <iostream>

#include "bundle/safetensors.hpp"
#include "parity/parity.hpp"

namespace {

using namespace edgeprune;

parity::Tensors tensors_of(const Json &named, const std::map<std::string, View> &file) {
    parity::Tensors tensors;
    for (const auto &pair : named) tensors.set(pair.at(0), file.at(pair.at(1)));
    return tensors;
}

Json judged(const Json &one, const std::map<std::string, View> &file) {
    try {
        return parity::compare(tensors_of(one.at("reference"), file), tensors_of(one.at("got"), file), one.at("dtype"),
                               one.at("rule"), tensors_of(one.at("quantities"), file), one.at("whole"),
                               one.at("quantised"))
            .to_json();
    } catch (const Error &error) {
        return {{"refused", error.what()}};
    }
}

}  // namespace

int main(int, char **given) {
    const Mapped tensors(given[2]);
    const auto file = read_safetensors(tensors, given[2]);
    Json verdicts = Json::array();
    for (const auto &one : Json::parse(std::ifstream(given[1]))) verdicts.push_back(judged(one, file));
    std::cout << verdicts.dump() << '\n';
}
