#include "tools/options.hpp"

#include <getopt.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "bundle/shown.hpp"

namespace edgeprune::tools {

const std::vector<Option> OPENING{
    {"device", "NAME", "auto, cpu, cuda, tensorrt (a plan), ort-tensorrt or ort-tensorrt-rtx."},
    {"threads", "N", "CPU threads; default ONNX Runtime's choice."},
    {"onnxruntime", "FILE", "ONNX Runtime's library; default $EDGEPRUNE_ONNXRUNTIME, then the system's."},
    {"json", nullptr, "Print JSON for machines."},
};

namespace {

const std::vector<std::pair<std::string, edgeprune_device>> DEVICES{
    {"auto", EDGEPRUNE_AUTO},
    {"cpu", EDGEPRUNE_CPU},
    {"cuda", EDGEPRUNE_CUDA},
    {"tensorrt", EDGEPRUNE_TENSORRT},
    {"ort-tensorrt", EDGEPRUNE_ORT_TENSORRT},
    {"ort-tensorrt-rtx", EDGEPRUNE_ORT_TENSORRT_RTX},
};

std::string joined(const std::vector<std::string> &words) {
    std::string text;
    for (const auto &word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
}

std::size_t words_of(const std::string &text) {
    std::istringstream words(text);
    std::string word;
    std::size_t count = 0;
    while (words >> word) ++count;
    return count;
}

// A JSON string.
std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (char one : text) {
        if (one == '"' || one == '\\') out += '\\';
        out += one;
    }
    return out + '"';
}

int leave(const char *tool, bool json, const std::string &message, int code) {
    const std::string text = printable(message);
    if (json)
        std::fprintf(stderr, "{\"error\": %s, \"exit_code\": %d}\n", quoted(text).c_str(), code);
    else
        std::fprintf(stderr, "%s: %s\n", tool, text.c_str());
    return code;
}

}  // namespace

Options::Options(std::string tool, std::string arguments, std::string purpose, std::vector<Option> options,
                 std::vector<std::string> examples)
    : tool_(std::move(tool)), usage_(std::move(arguments)), purpose_(std::move(purpose)),
      options_(std::move(options)), examples_(std::move(examples)) {
    options_.push_back({"version", nullptr, "Print the version, and leave."});
    options_.push_back({"help", nullptr, "Print this, and leave."});
}

void Options::read(int count, char **given) {
    std::vector<option> known;
    for (const auto &one : options_)
        known.push_back({one.name, one.value != nullptr ? required_argument : no_argument, nullptr, 1});
    known.push_back({nullptr, 0, nullptr, 0});
    opterr = 0;
    const std::string see = " (see " + tool_ + " --help)";
    int which = -1, found = 0;
    while ((found = getopt_long(count, given, ":h", known.data(), &which)) != -1) {
        if (found == 1) {
            values_[options_[static_cast<std::size_t>(which)].name].emplace_back(optarg != nullptr ? optarg : "");
        } else if (found == 'h') {
            values_["help"].emplace_back();
        } else if (found == ':') {
            throw wrong_request("option ", given[optind - 1], " requires an argument", see);
        } else {
            throw wrong_request("no such option, or no value expected: ", given[optind - 1], see);
        }
    }
    if (has("help") || has("version")) {
        const std::string text = has("help") ? help() : tool_ + " " + EDGEPRUNE_VERSION + "\n";
        std::fputs(text.c_str(), stdout);
        std::exit(std::fflush(stdout) == 0 ? 0 : 1);
    }
    for (int at = optind; at < count; ++at) arguments_.emplace_back(given[at]);
    if (arguments_.size() != words_of(usage_))
        throw wrong_request(tool_, " takes ", usage_, ", got ", arguments_.empty() ? "none" : joined(arguments_), see);
}

std::string Options::text(const std::string &name, const std::string &otherwise) const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second.back();
}

const std::vector<std::string> &Options::every(const std::string &name) const {
    static const std::vector<std::string> none;
    const auto found = values_.find(name);
    return found == values_.end() ? none : found->second;
}

int Options::whole(const std::string &name, int otherwise, int least, int most) const {
    if (!has(name)) return otherwise;
    const std::string given = text(name);
    char *end = nullptr;
    errno = 0;
    const long number = std::strtol(given.c_str(), &end, 10);
    if (given.empty() || *end != '\0' || errno != 0 || number < least || number > most) {
        const std::string range = most == 1 << 30 ? line("a whole number of at least ", least)
                                                  : line("a whole number in ", least, "..", most);
        throw wrong_request("--", name, " must be ", range, ", got ", given, " (see ", tool_, " --help)");
    }
    return static_cast<int>(number);
}

std::string Options::one_of(const std::string &name, const std::string &otherwise,
                            const std::vector<std::string> &names) const {
    const std::string given = text(name, otherwise);
    for (const auto &one : names)
        if (one == given) return given;
    throw wrong_request("--", name, " must be one of ", joined(names), ", got ", given, " (see ", tool_, " --help)");
}

edgeprune_device Options::device(const std::string &otherwise) const {
    std::vector<std::string> names;
    for (const auto &[name, device] : DEVICES) names.push_back(name);
    const std::string chosen = one_of("device", otherwise, names);
    for (const auto &[name, device] : DEVICES)
        if (name == chosen) return device;
    return EDGEPRUNE_AUTO;
}

std::string Options::help() const {
    std::string text = "Usage: " + tool_ + " [OPTIONS] " + usage_ + "\n\n  " + purpose_ + "\n";
    for (const auto &example : examples_)
        text += (&example == &examples_.front() ? "\n" : "") + (example.empty() ? "" : "  " + example) + "\n";
    text += "\nOptions:\n";
    std::size_t width = 0;
    const auto shown = [](const Option &one) {
        return "--" + std::string(one.name) + (one.value != nullptr ? " " + std::string(one.value) : "");
    };
    for (const auto &one : options_) width = std::max(width, shown(one).size());
    for (const auto &one : options_) {
        const std::string name = shown(one);
        text += "  " + name + std::string(width - name.size() + 2, ' ') + one.help + "\n";
    }
    return text;
}

std::string printable(const std::string &text) {
    std::string one_line = text;
    std::replace(one_line.begin(), one_line.end(), '\n', ' ');
    return shown(one_line);
}

int run(const char *tool, int count, char **given, int (*body)(int, char **)) {
    bool json = false;
    for (int at = 1; at < count; ++at) json = json || std::strcmp(given[at], "--json") == 0;
    try {
        const int code = body(count, given);
        // What is buffered may not go where it was meant to: a full disk.
        if (std::fflush(stdout) != 0) return leave(tool, json, "the output cannot be written; is the disk full?", 1);
        return code;
    } catch (const Error &error) {
        return leave(tool, json, error.what(), error.status == EDGEPRUNE_FAILED ? 1 : 2);
    } catch (const std::bad_alloc &) {
        return leave(tool, json, "memory ran out", 1);
    } catch (const std::exception &error) {
        return leave(tool, json, std::string("unexpected error: ") + error.what() + "; report it", 1);
    }
}

}  // namespace edgeprune::tools
