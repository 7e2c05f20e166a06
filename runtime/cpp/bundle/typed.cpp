#include "bundle/typed.hpp"

#include "bundle/shown.hpp"

namespace edgeprune {

namespace {

[[noreturn]] void refuse(const std::string &where, const std::string &kind, const Value &given) {
    throw Wrong(where + " must be " + kind + ", got " + repr(given, false, 60));
}

Value read_table(const Kind &kind, const Value &given, const std::string &where) {
    if (!given.object()) refuse(where.empty() ? "it" : where, "an object", given);
    const std::string dot = where.empty() ? "" : where + ".";
    for (std::size_t at = 0; at < kind.fields_count; ++at)
        if (kind.fields[at].must && !given.find(kind.fields[at].name))
            throw Wrong(dot + kind.fields[at].name + " must be given");
    Object members;
    for (std::size_t at = 0; at < kind.fields_count; ++at) {
        const Field &field = kind.fields[at];
        if (const Value *value = given.find(field.name))
            members.emplace_back(field.name, read(*field.kind, *value, dot + field.name));
    }
    return {members};
}

Value read_map(const Kind &kind, const Value &given, const std::string &where) {
    if (!given.object()) refuse(where.empty() ? "it" : where, "an object", given);
    Object members;
    for (const auto &[name, value] : *given.object())
        members.emplace_back(name, read(*kind.of, value, where + "[" + repr(name) + "]"));
    return {members};
}

Value read_array(const Kind &kind, const Value &given, const std::string &where) {
    const Array *items = given.array();
    if (!items || (kind.count && items->size() != kind.count))
        refuse(where, kind.count ? "an array of " + std::to_string(kind.count) : "an array", given);
    Array read_items;
    for (std::size_t at = 0; at < items->size(); ++at)
        read_items.push_back(read(*kind.of, (*items)[at], where + "[" + std::to_string(at) + "]"));
    return {read_items};
}

}  // namespace

Value read(const Kind &kind, const Value &given, const std::string &where) {
    if (kind.null && given.null()) return given;
    switch (kind.is) {
        case Kind::table: return read_table(kind, given, where);
        case Kind::map: return read_map(kind, given, where);
        case Kind::array: return read_array(kind, given, where);
        case Kind::boolean:
            if (!given.truth()) refuse(where, "true or false", given);
            break;
        case Kind::integer:
            if (!given.whole()) refuse(where, "an integer", given);
            break;
        case Kind::text:
            if (!given.text()) refuse(where, "a string", given);
            break;
        case Kind::integer_or_text:
            if (!given.whole() && !given.text()) refuse(where, "an integer or a string", given);
            break;
        case Kind::any: break;
    }
    return given;
}

}  // namespace edgeprune
