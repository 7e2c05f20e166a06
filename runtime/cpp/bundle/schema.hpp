// The fields of a manifest, as edgeprune/bundle/schema.py declares them, in its order.
#pragma once

#include "bundle/typed.hpp"

namespace edgeprune {

inline constexpr const char *MANIFEST = "manifest.json";
inline constexpr const char *SCHEMA_VERSION = "2.0";

extern const Kind SCHEMA;

// The fields of 2.0 of a manifest of schema 1.x, as edgeprune/bundle/older.py brings them into it. Throws Wrong.
Value upgraded(const Value &given);

// What must hold within a manifest, whose fields were read by SCHEMA, as edgeprune/bundle/agreement.py asks it.
// Throws Wrong.
void check_agreement(const Value &fields);

}  // namespace edgeprune
