// Names of files: as Python's pathlib spells them, and which folder is meant by one (edgeprune/bundle/finding.py).
#pragma once

#include <string>

namespace edgeprune {

// PurePosixPath(folder) / name, spelt as str() does: no `.`, no `/` twice or at the end.
std::string join(const std::string &folder, const std::string &name);
// PurePosixPath(path), the same of one.
std::string normal(const std::string &path);
std::string parent(const std::string &path);

// Whether a name is absolute, has a `..`, or would be so on another system.
bool leaves(const std::string &name);

bool is_file(const std::string &path);

// The folder that is meant: itself, or that of a file of a bundle. Whether it holds a bundle shows when it is read.
// Throws bad_bundle for a name of the Hugging Face hub, which is not looked up here.
std::string find_folder(const std::string &given);

}  // namespace edgeprune
