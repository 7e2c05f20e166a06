// edgeprune-bench BUNDLE: the pruned encoder beside its baselines, which take turns; the rules of runtime/ledger/bench.py.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include <nlohmann/json.hpp>

#include "backends/backend.hpp"
#include "backends/cut.hpp"
#include "bundle/bundle.hpp"
#include "tools/options.hpp"
#include "tools/spread.hpp"

namespace {

using namespace edgeprune;
using namespace edgeprune::tools;
using Clock = std::chrono::steady_clock;

constexpr const char *PRUNED = "pruned";
constexpr const char *ORDER[] = {"unpruned", "official", "naive", "pool"};
constexpr int WARM_UP = 2, LONGER = 3;
constexpr double BUDGET_S = 20, LEAST = 7, MOST = 200;

// A graph that is open, and the memory of one run of it: noise goes in, of one image where the batch is open.
class Turn {
  public:
    explicit Turn(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {
        std::mt19937 generator(0);
        inputs_ = bind(backend_->inputs());
        outputs_ = bind(backend_->outputs());
        for (std::size_t at = 0; at < inputs_.size(); ++at) fill(backend_->inputs()[at].dtype, memory_[at], generator);
    }

    const Backend &backend() const { return *backend_; }
    double seconds() {
        const auto began = Clock::now();
        backend_->run(inputs_, outputs_, 1);
        return std::chrono::duration<double>(Clock::now() - began).count();
    }

  private:
    std::vector<Bound> bind(const std::vector<Spec> &specs) {
        std::vector<Bound> bound;
        for (const Spec &spec : specs) {
            memory_.emplace_back(spec.nbytes());
            bound.push_back({bound.size(), memory_.back().data(), memory_.back().size()});
        }
        return bound;
    }

    // Zeros stay where whole numbers are no pixels: they may be positions in something.
    static void fill(DType dtype, std::vector<unsigned char> &bytes, std::mt19937 &generator) {
        const auto noise = [&] { return static_cast<float>(generator() % 4001) / 1000.0F - 2.0F; };
        if (dtype == EDGEPRUNE_UINT8)
            for (unsigned char &one : bytes) one = static_cast<unsigned char>(generator());
        if (dtype == EDGEPRUNE_FLOAT16)
            for (std::size_t at = 0; at + 2 <= bytes.size(); at += 2) {
                const std::uint16_t value = half_of(noise());
                std::memcpy(&bytes[at], &value, sizeof value);
            }
        if (dtype == EDGEPRUNE_FLOAT32)
            for (std::size_t at = 0; at + 4 <= bytes.size(); at += 4) {
                const float value = noise();
                std::memcpy(&bytes[at], &value, sizeof value);
            }
    }

    std::unique_ptr<Backend> backend_;
    std::vector<std::vector<unsigned char>> memory_;
    std::vector<Bound> inputs_, outputs_;
};

struct Graphs {
    std::vector<std::string> names;  // pruned first
    std::map<std::string, Turn> turns;
};

std::vector<std::string> baselines(const Manifest &manifest, const std::string &against) {
    std::vector<std::string> have;
    for (const char *name : ORDER)
        if (manifest.graphs.find(BASELINE + std::string(name)) != manifest.graphs.end()) have.emplace_back(name);
    if (against.empty()) return have;
    if (std::find(have.begin(), have.end(), against) != have.end()) return {against};
    std::string names;
    for (const std::string &name : have) names += (names.empty() ? "" : ", ") + name;
    throw wrong_request("no baseline ", against, " in the bundle; it has ", names.empty() ? "none" : names);
}

Graphs open(Bundle &bundle, const Options &options) {
    Choice choice;
    choice.device = options.device("cpu");
    choice.threads = options.whole("threads", 0, 1);
    choice.onnxruntime = options.text("onnxruntime");
    choice.log = [](const std::string &text) { std::fprintf(stderr, "edgeprune-bench: %s\n", printable(text).c_str()); };
    std::vector<std::string> others = baselines(bundle.manifest, options.text("against"));
    choice.split = options.has("split");
    std::unique_ptr<Backend> pruned = open_backend(bundle, choice);
    if (std::strcmp(pruned->device(), "tensorrt") == 0) {  // whose baselines have no plans
        if (options.has("against")) throw wrong_request("a plan is measured alone, without a baseline; leave out --against");
        others.clear();
    }
    if (const int keep = options.whole("keep", 0, 1)) pruned = cut_to(std::move(pruned), bundle.manifest, keep);
    Graphs graphs;
    graphs.names.emplace_back(PRUNED);
    graphs.turns.emplace(PRUNED, Turn(std::move(pruned)));
    const auto add = [&](const std::string &name, const std::string &graph) {
        choice.graph = graph;
        graphs.names.push_back(name);
        graphs.turns.emplace(name, Turn(open_backend(bundle, choice)));
    };
    if (choice.split) {
        choice.split = false;
        for (const char *half : {ENCODE, SELECT}) add(half, half);
    }
    for (const std::string &name : others) add(name, BASELINE + name);
    return graphs;
}

// Name -> seconds of each run. Each follows each other one equally often; without --rounds about 20 seconds' worth, and
// up to three times as many where these do not settle a ratio.
std::map<std::string, Seconds> measure(Graphs &graphs, int rounds) {
    double round_s = 0;
    for (auto &[name, turn] : graphs.turns) {
        double best = turn.seconds();
        for (int more = 1; more < WARM_UP; ++more) best = std::min(best, turn.seconds());
        round_s += best;
    }
    const int first = rounds ? rounds : static_cast<int>(std::clamp(BUDGET_S / round_s, LEAST, MOST));
    std::map<std::string, Seconds> times;
    const std::size_t count = graphs.names.size();
    for (int total = first; total <= first * (rounds ? 1 : LONGER); total += first) {
        for (auto turn = static_cast<std::size_t>(total - first); turn < static_cast<std::size_t>(total); ++turn)
            for (std::size_t offset = 0; offset < count; ++offset) {
                const std::string &name = graphs.names[(turn + offset) % count];
                times[name].push_back(graphs.turns.at(name).seconds());
            }
        if (settled(times, PRUNED)) break;
    }
    return times;
}

struct Row {
    std::string name;
    double median_ms, p95_ms, p99_ms;
    Ratio ratio;  // median of the pruned encoder over this one's: below 1, pruning is faster
};

std::vector<Row> rows_of(const Graphs &graphs, const std::map<std::string, Seconds> &times) {
    std::vector<Row> rows;
    for (const std::string &name : graphs.names) {
        const Seconds &seconds = times.at(name);
        const auto ms = [&](double percent) { return 1e3 * percentile(seconds, percent); };
        rows.push_back({name, ms(50), ms(95), ms(99),
                        name == PRUNED ? Ratio{} : ratio_of(times.at(PRUNED), seconds, PRUNED, name)});
    }
    return rows;
}

Json json_of(const Row &row) {
    Json json{{"name", row.name}, {"median_ms", row.median_ms}, {"p95_ms", row.p95_ms}, {"p99_ms", row.p99_ms},
              {"ratio", nullptr}, {"interval", nullptr}, {"doubt", row.ratio.doubt}};
    if (row.ratio.doubt.empty()) json["ratio"] = row.ratio.value;
    if (row.ratio.has_interval) json["interval"] = {row.ratio.interval.first, row.ratio.interval.second};
    return json;
}

void print_text(const std::vector<Row> &rows, const Backend &backend, std::size_t rounds) {
    std::printf("%s on %s, %zu rounds\n%-10s %10s %10s %10s %14s  95 %% interval\n", printable(backend.source()).c_str(),
                backend.device(), rounds, "graph", "median ms", "p95 ms", "p99 ms", "pruned / this");
    for (const Row &row : rows) {
        std::printf("%-10s %10.2f %10.2f %10.2f ", row.name.c_str(), row.median_ms, row.p95_ms, row.p99_ms);
        if (row.ratio.doubt.empty()) std::printf("%14.3f", row.ratio.value);
        else std::printf("%14s", "unknown");
        if (row.ratio.has_interval) std::printf("  %.3f-%.3f", row.ratio.interval.first, row.ratio.interval.second);
        std::printf("\n");
    }
    for (const Row &row : rows)
        if (!row.ratio.doubt.empty()) std::printf("no ratio to %s: %s\n", row.name.c_str(), row.ratio.doubt.c_str());
}

int body(int count, char **given) {
    std::vector<Option> known = OPENING;
    known.push_back({"rounds", "N", "Timed runs of each graph; default 20 to 60 seconds' worth."});
    known.push_back({"against", "NAME", "Only this baseline; default all in the bundle."});
    known.push_back({"split", nullptr, "The two halves of a bundle exported with --split, at once and each alone."});
    known.push_back({"keep", "K", "Cut each run of the pruned encoder to its first so many picks."});
    Options options("edgeprune-bench", "BUNDLE", "Measure a bundle's encoder against its baselines, interleaved.", known,
                    {"edgeprune-bench my-bundle", "edgeprune-bench my-bundle --against unpruned --threads 2 --json"});
    options.read(count, given);
    const int rounds = options.whole("rounds", 0, 1);
    Bundle bundle = Bundle::open(options.argument(0));
    Graphs graphs = open(bundle, options);
    const auto times = measure(graphs, rounds);
    const auto rows = rows_of(graphs, times);
    const Backend &pruned = graphs.turns.at(PRUNED).backend();
    const std::size_t done = times.at(PRUNED).size();
    if (!options.has("json")) {
        print_text(rows, pruned, done);
        return 0;
    }
    Json json{{"device", pruned.device()}, {"source", pruned.source()}, {"rounds", done}, {"rows", Json::array()},
              {"threads", nullptr}, {"keep", nullptr}, {"versions", {{"edgeprune", edgeprune_version()}}}};
    for (const Row &row : rows) json["rows"].push_back(json_of(row));
    if (const int threads = options.whole("threads", 0, 1)) json["threads"] = threads;
    if (const int keep = options.whole("keep", 0, 1)) json["keep"] = keep;
    std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
    return 0;
}

}  // namespace

int main(int count, char **given) { return run("edgeprune-bench", count, given, body); }
