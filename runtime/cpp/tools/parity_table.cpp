#include "tools/parity_table.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <sstream>

#include "parity/numbers.hpp"
#include "tools/options.hpp"

namespace edgeprune::tools {

namespace {

using parity::formatted;
using Row = std::array<std::string, 8>;

const Row HEADINGS[] = {{"backend", "", "within", "", "regret /", "score", "token", ""},
                            {"and probe", "decided", "rounding", "wrong", "tolerance", "error", "error", ""}};
// Of a quantised graph, no single decision of which is held against it
const Row BOUND[] = {{"backend", "", "", "lost by", "score", "token", "token", ""},
                     {"and probe", "decided", "lost", "chance", "error", "median", "error", ""}};

std::string percent(const char *format, double share) { return formatted(format, 100 * share) + "%"; }

Row row_of(const std::string &name, const parity::Verdict &verdict, bool bound) {
    const char *passed = verdict.passed() ? "pass" : "FAIL";
    if (bound)
        return {name,
                line(verdict.decided, "/", verdict.decisions),
                percent("%.2f", verdict.lost),
                percent("%.1f", verdict.blind),
                formatted("%.1e", verdict.error_relative),
                verdict.tokens ? formatted("%.1e", verdict.token_median) : "-",
                verdict.tokens ? formatted("%.1e", verdict.token_error) : "-",
                passed};
    return {name,
            line(verdict.decided, "/", verdict.decisions),
            line(verdict.within),
            line(verdict.wrong),
            formatted("%.2g", verdict.regret),
            formatted("%.1e", verdict.error_relative),
            verdict.tokens ? formatted("%.1e", verdict.token_error) : "-",
            passed};
}

// In columns, not in bytes.
std::size_t width_of(const std::string &text) {
    const auto begins = [](char one) { return (static_cast<unsigned char>(one) & 0xc0) != 0x80; };
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins));
}

// Of a name that would make the table wider than 80 columns each word on a line of its own.
std::vector<std::string> lines_of(const std::string &name) {
    if (name.size() <= 15) return {name};
    std::istringstream words(name);
    return {std::istream_iterator<std::string>(words), {}};
}

std::string line_of(const parity::Report &report) {
    const parity::Verdict worst = report.worst();
    std::string text = line(worst.passed() ? "parity" : "NO PARITY", " on ", report.device, ": ");
    if (!report.proven()) text += "not proven: ";
    const std::string share = worst.decisions
                                  ? formatted("%.0f", 100 * report.decided()) + "% decided"
                                  : "nothing to decide";
    const std::string tokens = worst.tokens ? "token error " + formatted("%.1e", worst.token_error) : "no token to compare";
    if (report.bounds) {
        text += line(percent("%.2f", worst.lost), " lost by the choice, ", percent("%.2f", report.bounds->regret),
                     " allowed, ", share, ", ", tokens);
        if (worst.tokens) text += line(", ", formatted("%.1e", worst.token_median), " in the median");
    } else {
        text += share;
        if (worst.within) text += line(", ", worst.within, " within rounding");
        text += line(", ", worst.wrong, " wrong, score error ", formatted("%.1e", worst.error_relative), ", ", tokens);
    }
    for (const auto &reason : worst.reasons) text += "\n  " + printable(reason);
    return text + "\n";
}

}  // namespace

std::string parity_table(const Reports &reports) {
    const bool bound = reports.front().bounds.has_value();  // of all, then: they are of one bundle
    std::vector<Row> rows(std::begin(bound ? BOUND : HEADINGS), std::end(bound ? BOUND : HEADINGS));
    for (const parity::Report &report : reports) {
        if (&report != &reports.front()) rows.emplace_back();
        const std::vector<std::string> names = lines_of(report.device + " " + report.dtype);
        rows.push_back(row_of(names.front(), report.worst(), bound));
        for (std::size_t at = 1; at < names.size(); ++at) rows.push_back({names[at]});
        for (const auto &[probe, verdict] : report.probes)
            rows.push_back(row_of("  " + printable(probe), verdict, bound));
    }
    std::array<std::size_t, 8> widths{};
    for (const Row &row : rows)
        for (std::size_t at = 0; at < row.size(); ++at) widths[at] = std::max(widths[at], width_of(row[at]));
    std::string text = "Parity with the reference\n\n";
    for (std::size_t number = 0; number < rows.size(); ++number) {
        std::string shown = " ";
        std::size_t all = 0;
        for (std::size_t at = 0; at < widths.size(); ++at) {
            const std::string &cell = rows[number][at];
            const std::string blank(widths[at] - width_of(cell), ' ');
            shown += (at ? "  " : "") + (at && at + 1 < widths.size() ? blank + cell : cell + blank);
            all += widths[at] + (at ? 2 : 0);
        }
        shown.erase(shown.find_last_not_of(' ') + 1);
        text += shown + "\n";
        if (number != 1) continue;
        text += ' ';
        for (std::size_t at = 0; at < all; ++at) text += "─";
        text += '\n';
    }
    return text + "\n";
}

std::string parity_line(const Reports &reports) {
    std::string text;
    for (const parity::Report &report : reports) text += line_of(report);
    return text;
}

std::string ran_line(const std::string &folder, const Reports &reports, const std::vector<std::string> &plans_not_run) {
    std::string ran;
    for (const parity::Report &report : reports)
        ran += line(ran.empty() ? "ran " : ", ", printable(report.source), " on ", report.device);
    if (plans_not_run.empty()) return ran + "\n";
    std::string plans;
    for (const auto &plan : plans_not_run) plans += (plans.empty() ? "" : ", ") + printable(plan);
    return line(ran, "; ", plans, " did not run: run it here with `edgeprune-verify ", printable(folder),
                " --device tensorrt`\n");
}

}  // namespace edgeprune::tools
