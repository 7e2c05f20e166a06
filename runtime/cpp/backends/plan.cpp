#include "backends/plan.hpp"

#include <algorithm>
#include <optional>
#include <tuple>

#include <dirent.h>

#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

constexpr const char *TENSORRT = "tensorrt", *RTX = "tensorrt-rtx";

struct Misfit {
    int rank;  // how near the plan came: the remedy of the nearest is the one that is named
    std::string reason, remedy;
};

// "86, 89 or 120"
std::string sms(const std::vector<int> &all) {
    std::string text;
    for (std::size_t at = 0; at < all.size(); ++at)
        text += (at == 0 ? "" : at + 1 < all.size() ? ", " : " or ") + std::to_string(all[at]);
    return text;
}

// How to get a plan for a GPU: by the targets that have it, the bundle's own first.
std::string for_sm(const Bundle &bundle, int sm) {
    std::vector<std::string> able;
    for (const Target &target : plan_targets())
        if (std::find(target.sm.begin(), target.sm.end(), sm) != target.sm.end()) able.emplace_back(target.name);
    if (able.empty())
        return line("no target has SM ", sm, ": write one (see `edgeprune targets`), and build with --target");
    const Manifest &manifest = bundle.manifest;
    const bool own = std::find(able.begin(), able.end(), manifest.target) != able.end();
    const std::string name = own ? manifest.target : able[0];
    std::string others;
    for (const std::string &one : able)
        if (one != name) others += (others.empty() ? "" : ", ") + one;
    return line("build one for SM ", sm, ": `edgeprune build ", shown(bundle.folder), " --target ", name,
                manifest.engines.count(name) ? " --force" : "", "`", others.empty() ? "" : " (or " + others + ")");
}

// How to get the library that opens plans of a kind. Python names a package instead.
std::string install(const std::string &target, const Engine &engine) {
    const auto &all = plan_targets();
    const auto known = std::find_if(all.begin(), all.end(), [&](const Target &one) { return one.name == target; });
    const std::string jetpack = known == all.end() ? "" : known->jetpack;
    const char *product = engine.kind == RTX ? "TensorRT-RTX" : "TensorRT";
    return line("build it with -DEDGEPRUNE_TENSORRT=ON where ", product, " ", engine.version, " is installed",
                jetpack.empty() ? "" : ", as JetPack " + jetpack + " has it");
}

// What keeps a plan from running here; the first of several.
std::optional<Misfit> misfit_of(const std::string &target, const Engine &engine, const Have &have,
                                const Bundle &bundle) {
    const std::string again = line("`edgeprune build ", shown(bundle.folder), " --target ", target, " --force`");
    if (engine.kind != TENSORRT && engine.kind != RTX)
        return Misfit{-1, line("is of the kind ", engine.kind, ", which this edgeprune does not know"),
                      "upgrade edgeprune"};
    if (engine.kind == TENSORRT && engine.system != have.system)
        return Misfit{0, line("was built on ", engine.system, ", this is ", have.system),
                      line("build one on this machine: ", again)};
    if (!have.gpu.sm)
        return Misfit{1, line("needs a GPU of SM ", sms(engine.sm), ", and ", have.gpu.why_not),
                      "run it where there is one, or use --device cpu"};
    if (std::find(engine.sm.begin(), engine.sm.end(), have.gpu.sm) == engine.sm.end())
        return Misfit{2, line("is for SM ", sms(engine.sm), ", the GPU here has SM ", have.gpu.sm),
                      for_sm(bundle, have.gpu.sm)};
    const auto version = have.versions.find(engine.kind);
    if (version == have.versions.end()) {
        const auto why = have.missing.find(engine.kind);
        const std::string wanted = why == have.missing.end() ? "the library that opens it" : why->second;
        return Misfit{3, line("needs ", wanted, ", in version ", engine.version), install(target, engine)};
    }
    if (!same_release(version->second, engine.version))
        return Misfit{4, line("was built by ", engine.kind, " ", engine.version, ", here is ", version->second),
                      line("build it again: ", again, ", or install ", engine.version)};
    return std::nullopt;
}

// The plans that lie in a bundle, and that its manifest does not list: what trtexec left there. The first of them.
std::string loose(const Bundle &bundle) {
    std::string first;
    DIR *folder = opendir(bundle.folder.c_str());
    if (!folder) return first;
    while (const dirent *entry = readdir(folder)) {
        const std::string name = entry->d_name, head = "encoder.", tail = ".plan";
        const bool plan = name.size() >= head.size() + tail.size() && name.compare(0, head.size(), head) == 0 &&
                          name.compare(name.size() - tail.size(), tail.size(), tail) == 0;
        if (plan && !bundle.manifest.files.count(name) && (first.empty() || name < first)) first = name;
    }
    closedir(folder);
    return first;
}

std::vector<std::string> numbers(const std::string &version) {
    std::vector<std::string> parts;
    std::size_t from = 0;
    while (from <= version.size()) {
        const std::size_t to = std::min(version.find('.', from), version.size());
        const std::string part = version.substr(from, to - from);
        if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos) parts.push_back(part);
        from = to + 1;
    }
    return parts;
}

}  // namespace

const std::vector<Target> &plan_targets() {
    static const std::vector<Target> all = {
        {"datacenter", TENSORRT, "", {80, 86, 89, 90}},
        {"dgx-spark", RTX, "", {121}},
        {"jetson-orin", TENSORRT, "6.1-6.2.2", {87}},
        {"jetson-orin-jp51", TENSORRT, "5.1-5.1.6", {87}},
        {"jetson-orin-jp60", TENSORRT, "6.0", {87}},
        {"jetson-orin-jp72", TENSORRT, "7.2", {87}},
        {"jetson-thor", TENSORRT, "7.0-7.2", {110}},
        {"rtx-desktop", RTX, "", {86, 89, 120}},
        {"rtx-turing", RTX, "", {75}},
    };
    return all;
}

bool has_plan(const Bundle &bundle) { return !bundle.manifest.engines.empty() || !loose(bundle).empty(); }

const Engine &choose(const Bundle &bundle, const Have &have) {
    const auto &engines = bundle.manifest.engines;
    const std::string folder = shown(bundle.folder);
    if (engines.empty()) {
        const std::string plan = loose(bundle);
        if (plan.empty())
            throw no_device(folder, " has no plan for device tensorrt; make one with `edgeprune build ", folder, "`");
        throw no_device(folder, " has ", shown(plan), ", but its manifest does not list it; take it in with ",
                        "`edgeprune build ", folder, " --adopt ", folder, "/", shown(plan), "`");
    }
    const Engine *best = nullptr;
    std::tuple<bool, bool, std::string> first;
    std::optional<Misfit> nearest;
    std::string reasons;
    for (const auto &[name, engine] : engines) {
        const std::optional<Misfit> misfit = misfit_of(name, engine, have, bundle);
        if (!misfit) {
            const auto order = std::make_tuple(engine.kind != TENSORRT, name != bundle.manifest.target, name);
            if (!best || order < first) {
                best = &engine;
                first = order;
            }
            continue;
        }
        reasons += line(reasons.empty() ? "" : "; ", engine.plan, " ", misfit->reason);
        if (!nearest || misfit->rank > nearest->rank) nearest = misfit;
    }
    if (best) return *best;
    throw no_device("device tensorrt finds no plan in ", folder, " that fits this machine: ", reasons, "; ",
                    nearest->remedy);
}

bool same_release(const std::string &one, const std::string &other) {
    const std::vector<std::string> a = numbers(one), b = numbers(other);
    const auto shorter = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
    return std::equal(a.begin(), a.begin() + shorter, b.begin());
}

}  // namespace edgeprune
