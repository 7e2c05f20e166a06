#include "bundle/places.hpp"

#include <algorithm>
#include <vector>

#include <sys/stat.h>

#include "bundle/schema.hpp"
#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {

namespace {

std::vector<std::string> parts(const std::string &path) {
    std::vector<std::string> found;
    for (std::size_t at = 0; at <= path.size();) {
        const std::size_t end = std::min(path.find('/', at), path.size());
        const std::string part = path.substr(at, end - at);
        if (!part.empty() && part != ".") found.push_back(part);
        at = end + 1;
    }
    return found;
}

std::string root(const std::string &path) {  // exactly two slashes are a root of their own in POSIX
    if (path.compare(0, 2, "//") == 0 && path.compare(0, 3, "///") != 0) return "//";
    return path.compare(0, 1, "/") == 0 ? "/" : "";
}

bool is_folder(const std::string &path) {
    struct stat found;
    return stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
}

bool is_there(const std::string &path) {  // a link that leads nowhere as well
    struct stat found;
    return lstat(path.c_str(), &found) == 0;
}

// [\w-][\w.-]*, as far as ASCII goes; other letters are letters
bool is_word(const std::string &text) {
    const auto fits = [](char one) {
        const auto byte = static_cast<unsigned char>(one);
        return byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
               (byte >= 'a' && byte <= 'z') || byte == '_' || byte == '-' || byte == '.';
    };
    return !text.empty() && text[0] != '.' && std::all_of(text.begin(), text.end(), fits);
}

// owner/name or owner/name@revision -> owner/name; "" for what is no such name
std::string hub_id(const std::string &given) {
    const std::string id = given.substr(0, given.find('@'));
    const std::size_t slash = id.find('/');
    if (slash == std::string::npos || id.find('/', slash + 1) != std::string::npos) return "";
    return is_word(id.substr(0, slash)) && is_word(id.substr(slash + 1)) ? id : "";
}

}  // namespace

std::string normal(const std::string &path) {
    std::string text = root(path);
    const std::vector<std::string> names = parts(path);
    for (std::size_t at = 0; at < names.size(); ++at) text += (at ? "/" : "") + names[at];
    return text.empty() ? "." : text;
}

std::string join(const std::string &folder, const std::string &name) {
    if (name.compare(0, 1, "/") == 0) return normal(name);
    return normal(folder.empty() ? name : folder + "/" + name);
}

std::string parent(const std::string &path) {
    const std::string whole = normal(path), begin = root(whole);
    const std::size_t slash = whole.rfind('/');
    if (whole == begin) return whole;
    if (slash == std::string::npos) return ".";
    return slash < begin.size() ? begin : whole.substr(0, slash);
}

bool leaves(const std::string &name) {
    const std::vector<std::string> names = parts(name);
    return !root(name).empty() || std::find(names.begin(), names.end(), "..") != names.end() ||
           name.find_first_of("\\:") != std::string::npos;
}

bool is_file(const std::string &path) {
    struct stat found;
    return stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
}

std::string find_folder(const std::string &given) {
    const std::string path = normal(given), folder = parent(path);
    if (is_file(path) && is_file(join(folder, MANIFEST))) return folder;
    const std::string id = hub_id(given);
    if (!id.empty() && !is_there(path) && !is_folder(folder))
        throw bad_bundle(shown(given), " is no folder, and this library does not look into the Hugging Face cache; ",
                         "give the folder that `hf download ", shown(id), "` prints");
    return path;
}

}  // namespace edgeprune
