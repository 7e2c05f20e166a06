// The arguments of a tool, and how it leaves: exit code 0, 1 (failed) or 2 (the request cannot be met), one line on
// stderr, with --json an object, as the verbs of the Python command line do.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "error.hpp"

namespace edgeprune::tools {

// --help and --version have all tools.
struct Option {
    const char *name;   // without the two dashes
    const char *value;  // what it takes, as "N"; nullptr: it is a flag
    const char *help;
};

// --device, --threads, --onnxruntime, --json: what every tool that opens a bundle takes.
extern const std::vector<Option> OPENING;

class Options {
  public:
    // purpose: one line; arguments: as "BUNDLE IMAGE"; `examples`: lines at the end of the help
    Options(std::string tool, std::string arguments, std::string purpose, std::vector<Option> options,
            std::vector<std::string> examples = {});

    // Throws wrong_request. --help and --version are printed and end the process with 0.
    void read(int count, char **given);

    bool has(const std::string &name) const { return values_.count(name) != 0; }
    // Of an option that was given, the last time; else `otherwise`.
    std::string text(const std::string &name, const std::string &otherwise = "") const;
    // Of an option that may be given several times: all of them, in their order.
    const std::vector<std::string> &every(const std::string &name) const;
    // A whole number; throws wrong_request for anything else, and below `least` or above `most`.
    int whole(const std::string &name, int otherwise, int least, int most = 1 << 30) const;
    // Throws wrong_request for what is none of them.
    std::string one_of(const std::string &name, const std::string &otherwise,
                       const std::vector<std::string> &names) const;
    // The arguments that are no options, as many as `arguments` of the constructor names.
    const std::string &argument(std::size_t at) const { return arguments_.at(at); }

    // Of --device; `otherwise` where none is named.
    edgeprune_device device(const std::string &otherwise = "auto") const;

    std::string help() const;
    const std::string &tool() const { return tool_; }

  private:
    std::string tool_, usage_, purpose_;
    std::vector<Option> options_;
    std::vector<std::string> examples_, arguments_;
    std::map<std::string, std::vector<std::string>> values_;
};

// Text that a terminal takes for text alone, on one line.
std::string printable(const std::string &text);

// The main function of a tool: `body` reads the options and returns the exit code; what it throws becomes one line.
int run(const char *tool, int count, char **given, int (*body)(int, char **));

}  // namespace edgeprune::tools
