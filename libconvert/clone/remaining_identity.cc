// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/remaining_identity.h"

#include "libconvert/clone/guest_seat.h"
#include "libconvert/host/connection.h"

namespace kvmport {

std::vector<IdentityFinding> remaining_identity(const CloneOptions& options, EventSink& sink, const StopToken& stop) {
  const CloneSource source = options.connection.empty() ? open_clone_source(options.sources, options.source, {}, sink)
                                                        : open_clone_source(LibvirtConnection(options.connection),
                                                                            options.domain, options.source, {}, sink);
  std::vector<IdentityFinding> found;
  GuestSeat(source.source.machine, borrowed(source.source.images), options, sink, stop).look([&](GuestAccess& guest) {
    found = identity_report(guest.info(), guest.filesystem());
  });
  return found;
}

} // namespace kvmport
