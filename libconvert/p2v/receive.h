// SPDX-License-Identifier: Apache-2.0
// The server side of a capture: takes the disks of a machine over the P2V protocol into a spool in DIR, checks them and
// hands them to be delivered. Nothing outside of DIR is written, whatever the other side says.
#pragma once

#include "base/file.h"
#include "libconvert/p2v/messages.h"

#include <functional>
#include <nlohmann/json.hpp>

namespace kvmport {

/// A machine that is here, its disks checked against the source's digests.
struct CapturedMachine {
  const ManifestMessage& manifest;
  std::vector<std::filesystem::path> disks;   ///< raw, in the spool; one per manifest.disks
  std::vector<std::vector<Range>> unreadable; ///< per disk: zeros stand for these
  std::filesystem::path directory, spool;     ///< of the results; of the disks
};

/// Makes of it what its wishes say; returns what the agent is told ("files", "proven", "converted", …).
using Deliver = std::function<nlohmann::json(const CapturedMachine&, EventSink&, const StopToken&)>;

struct ReceiveOptions {
  std::filesystem::path directory; ///< results go here; made when it does not exist
  Deliver deliver;
  /// How long to wait for an agent that comes back while its old connection ends.
  std::chrono::milliseconds grace{200};
};

/// Where the account of a capture is kept, and what an agent that lost its connection is told of it.
std::string capture_report_name(const std::string& machine);

/// Serves the connection whose frames come on `in` and go to `out`, and those that other receivers hand over, until the
/// machine is delivered; returns what deliver returned, or null when this process only led to another receiver. Events
/// go to the agent and to `log`. Errors are told to the agent and thrown: those of deliver, NAME_TAKEN, OUTPUT_BUSY,
/// FILE_EXISTS, PROTOCOL_ERROR, PROTOCOL_VERSION, DIGEST_MISMATCH, DISK_FULL, VERIFY_FAILED, CONNECTION_LOST. After any
/// of them what arrived is kept, so that the next start goes on with it.
nlohmann::json receive_machine(UniqueFd in, UniqueFd out, const ReceiveOptions& options, EventSink& log,
                               const StopToken& stop);

} // namespace kvmport
