// From JSON Schemas to nodes.
#pragma once

#include <vector>

#include "json/json_value.h"
#include "schema/schema_node.h"

namespace toolprm {

// Adds the nodes of `schema`, into which its references lead, and returns the first one's number;
// the node kAnything must exist. Throws std::invalid_argument for what is no schema.
NodeId compile_schema(const JsonValue& schema, std::vector<SchemaNode>& nodes);

// Called once after the last schema: works out what follows from the nodes that a node refers to.
void settle_nodes(std::vector<SchemaNode>& nodes);

}  // namespace toolprm
