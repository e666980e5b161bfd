// Turns JSON Schemas (draft 2020-12) into nodes. What it does not know is left to the judge.
#pragma once

#include <vector>

#include "json/json_value.h"
#include "schema/schema_node.h"

namespace toolprm {

// Appends the nodes of a schema, references followed, and returns its own. Throws
// std::invalid_argument for a schema that can't be compiled.
NodeId compile_schema(const JsonValue& schema, std::vector<SchemaNode>& nodes);

// Works out, once all schemas are compiled, what a node takes over from those that it holds.
void settle_nodes(std::vector<SchemaNode>& nodes);

}  // namespace toolprm
