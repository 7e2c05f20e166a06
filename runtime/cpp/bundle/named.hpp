// Things by their names, in the order in which a file gives them: what Python's dict is.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace edgeprune {

template <class T>
class Named {
  public:
    using Items = std::vector<std::pair<std::string, T>>;

    typename Items::const_iterator begin() const { return items_.begin(); }
    typename Items::const_iterator end() const { return items_.end(); }
    std::size_t size() const { return items_.size(); }
    bool empty() const { return items_.empty(); }

    typename Items::const_iterator find(const std::string &name) const {
        const auto found = places_.find(name);
        return found == places_.end() ? end() : begin() + static_cast<std::ptrdiff_t>(found->second);
    }
    std::size_t count(const std::string &name) const { return places_.count(name); }
    const T &at(const std::string &name) const {
        const auto found = find(name);
        if (found == end()) throw std::out_of_range(name);
        return found->second;
    }

    // A name that is there keeps its place, and what it had.
    void add(const std::string &name, T thing) {
        if (places_.emplace(name, items_.size()).second) items_.emplace_back(name, std::move(thing));
    }

  private:
    Items items_;
    std::map<std::string, std::size_t> places_;
};

}  // namespace edgeprune
