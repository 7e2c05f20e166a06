// edgeprune-verify BUNDLE: is what this device computes the method of the paper? docs/parity.md says how it is judged.
#include <unistd.h>

#include <cstdio>

#include "parity/numbers.hpp"
#include "parity/verify.hpp"
#include "tools/options.hpp"
#include "tools/parity_table.hpp"

namespace {

using namespace edgeprune;
using namespace edgeprune::tools;

void say(const std::string &text) { std::fprintf(stderr, "edgeprune-verify: %s\n", printable(text).c_str()); }

// On a terminal one line that is written over, elsewhere nothing.
void show(std::size_t done, std::size_t all, const std::string &probe) {
    if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K[%zu/%zu] %s", done + 1, all, printable(probe).c_str());
}

void print(const std::string &text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// Throws failed.
void check(const std::string &folder, const parity::Report &report, bool strict) {
    if (!report.passed())
        throw failed(folder, " differs from its reference on ", report.device, ": ", report.worst().reasons[0]);
    if (!strict || report.proven()) return;
    if (report.bounds)
        throw failed(folder, " is not proven on ", report.device, ": on half of its probes a choice by chance must fail, ",
                     "and tokens must be compared; export it with images of yours (--probes), or leave out --strict");
    throw failed(folder, " is not proven on ", report.device, ": half of the decisions on probes that are not flat must ",
                 "be decided, ", parity::formatted("%.0f", 100 * report.decided()),
                 "% are; export it with images of yours (--probes), or leave out --strict");
}

int verify(int count, char **given) {
    std::vector<Option> known = OPENING;
    known.push_back({"keep", "K", "The first so many of the kept tokens alone, where kept sets nest."});
    known.push_back({"strict", nullptr, "Fail, too, where less than half of the decisions are decided."});
    Options options("edgeprune-verify", "BUNDLE", "Compare what this device computes with the reference.", known,
                    {"The decisions of each probe are judged one by one, given those before, by the reference's",
                     "numbers. Exit code 1 when one is wrong, or an output differs; 2 when it cannot be run.", "",
                     "edgeprune-verify my-bundle", "edgeprune-verify my-bundle --device cuda --json"});
    options.read(count, given);
    Choice choice;
    choice.device = options.device();
    choice.threads = options.whole("threads", 0, 1);
    choice.onnxruntime = options.text("onnxruntime");
    choice.log = say;
    const int keep = options.whole("keep", 0, 1);
    const std::string folder = options.argument(0);
    Bundle bundle = Bundle::open(folder);
    const std::vector<parity::Report> reports = parity::verify(bundle, choice, keep, show);
    if (isatty(STDERR_FILENO)) std::fputs("\r\033[K", stderr);
    const auto not_run = parity::plans_not_run(folder, reports);
    if (options.has("json")) {
        Json all{{"passed", true}, {"backends", Json::array()}, {"plans_not_run", not_run}};
        for (const parity::Report &report : reports) {
            all["passed"] = all["passed"].get<bool>() && report.passed();
            all["backends"].push_back(report.to_json());
        }
        print(all.dump(2, ' ', true, Json::error_handler_t::replace) + "\n");
    } else {
        print(parity_table(reports) + parity_line(reports) + ran_line(folder, reports, not_run));
    }
    std::fflush(stdout);
    for (const parity::Report &report : reports) check(folder, report, options.has("strict"));
    return 0;
}

}  // namespace

int main(int count, char **given) { return run("edgeprune-verify", count, given, verify); }
