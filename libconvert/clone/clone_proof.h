// SPDX-License-Identifier: Apache-2.0
// The proof of clones: each boots on throw-away overlays, alone or several together on one private network, and what it
// then is (machine id, host name, SSH host keys, DHCP client) is read from those overlays.
#pragma once

#include "libconvert/clone/clone_job.h"

#include <vector>

namespace kvmport {

/// Boots `jobs` side by side on one hub (alone when there is one) and fills verdict and identity of their outcomes.
void prove_clones(const CloneRun& run, const std::vector<CloneJob*>& jobs);

/// What the source is, in the same terms.
std::map<std::string, std::string> source_identity(const CloneRun& run);

/// "machine-id: web-001, web-002" for every value that two machines share. `source`: of which they are clones.
std::vector<std::string> shared_after_boot(const std::map<std::string, std::string>& source,
                                           const std::vector<CloneOutcome>& clones);

} // namespace kvmport
