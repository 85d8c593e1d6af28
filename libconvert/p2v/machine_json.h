// SPDX-License-Identifier: Apache-2.0
// A Machine as JSON, as the P2V manifest carries it. Nothing that names a file of a host is written or read: no disk
// paths, no variable store.
#pragma once

#include "libconvert/machine/machine.h"

#include <nlohmann/json.hpp>

namespace kvmport {

nlohmann::json machine_to_json(const Machine& machine);
/// Error PROTOCOL_ERROR for values that make no sense or are beyond the limits of machine/limits.h. Texts are made
/// UTF-8.
Machine machine_from_json(const nlohmann::json& json);

} // namespace kvmport
