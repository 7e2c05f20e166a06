// Answers what the tests in Python ask of the parts that have no place in edgeprune.h.
//
//     answers open         names of folders, each ended by a NUL -> why each is refused, "" where it opens
//     answers tensors      names of safetensors files, the same
//     answers copy FROM TO reads a safetensors file and writes it again
//     answers canonical    texts of JSON, the same -> their canonical form, "" where they are refused
//     answers plan         texts of JSON, what a machine has -> the plan that is chosen, or why there is none
//     answers targets      anything -> the targets that have plans, one a line: name, kind, SMs, JetPack
//     answers halves       float32 -> the nearest halves;  answers singles: halves -> float32
//
// Each answer is ended by a NUL, but the numbers, which are raw.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "backends/plan.hpp"
#include "bundle/bundle.hpp"
#include "bundle/safetensors.hpp"
#include "bundle/value.hpp"
#include "check.hpp"
#include "tensor.hpp"

namespace {

using namespace edgeprune;

std::map<std::string, std::string> texts(const Value *given) {
    std::map<std::string, std::string> found;
    for (const auto &[name, value] : *given->object()) found[name] = *value.text();
    return found;
}

std::string plan_for(const std::string &asked) {
    const Value given = parse(asked).value();
    Have have;
    have.versions = texts(given.find("versions"));
    have.missing = texts(given.find("missing"));
    have.system = *given.find("system")->text();
    have.gpu.sm = static_cast<int>(*given.find("sm")->whole());
    have.gpu.why_not = *given.find("why_not")->text();
    std::string chosen;
    const std::string why = check::refusal([&] {
        const Bundle bundle = Bundle::open(*given.find("folder")->text());
        chosen = choose(bundle, have).plan;
    });
    return why.empty() ? chosen : why;
}

std::string targets() {
    std::string all;
    for (const Target &target : plan_targets()) {
        all += line(target.name, " ", target.kind, " ");
        for (const int sm : target.sm) all += line(sm, ",");
        all += line(" ", target.jetpack, "\n");
    }
    return all;
}

std::string answer(const std::string &what, const std::string &asked) {
    if (what == "open") return check::refusal([&] { Bundle::open(asked); });
    if (what == "tensors") return check::refusal([&] { read_safetensors(Mapped(asked), asked); });
    if (what == "plan") return plan_for(asked);
    if (what == "targets") return targets();
    const std::optional<Value> value = parse(asked);
    return value ? canonical(*value) : "";
}

template <class From, class To, class Convert>
std::string converted(const std::string &given, Convert convert) {
    std::string out;
    for (std::size_t at = 0; at + sizeof(From) <= given.size(); at += sizeof(From)) {
        From from;
        std::memcpy(&from, given.data() + at, sizeof from);
        const To to = convert(from);
        out.append(reinterpret_cast<const char *>(&to), sizeof to);
    }
    return out;
}

}  // namespace

int main(int count, char **words) {
    const std::string what = count > 1 ? words[1] : "";
    if (what == "copy" && count == 4) {
        const Mapped file(words[2]);
        write_safetensors(words[3], read_safetensors(file, words[2]));
        return 0;
    }
    const std::string given{std::istreambuf_iterator<char>(std::cin), {}};
    if (what == "halves") {
        std::cout << converted<float, std::uint16_t>(given, half_of);
    } else if (what == "singles") {
        std::cout << converted<std::uint16_t, float>(given, float_of);
    } else {
        for (std::size_t at = 0, end; (end = given.find('\0', at)) != std::string::npos; at = end + 1)
            std::cout << answer(what, given.substr(at, end - at)) << '\0';
    }
    return 0;
}
