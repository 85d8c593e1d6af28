// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/remaining_identity.h"

#include "base/file.h"
#include "libconvert/boot_machine.h"
#include "libconvert/host/connection.h"

namespace kvmport {

std::vector<IdentityFinding> remaining_identity(const CloneOptions& options, EventSink& sink, const StopToken& stop) {
  const CloneSource source = options.connection.empty() ? open_clone_source(options.sources, options.source, {}, sink)
                                                        : open_clone_source(LibvirtConnection(options.connection),
                                                                            options.domain, options.source, {}, sink);
  std::vector<std::unique_ptr<Overlay>> layers;
  std::vector<Overlay*> borrowed;
  for (const auto& image : source.source.images) {
    layers.push_back(std::make_unique<Overlay>(*image, std::filesystem::temp_directory_path(), proof_overlay_cap));
    borrowed.push_back(layers.back().get());
  }
  const TempDir sockets;
  const auto access =
      open_guest(source.source.machine, borrowed, options.guest, options.access, sockets.path(), sink, stop);
  auto found = identity_report(access->info(), access->filesystem());
  access->finish();
  return found;
}

} // namespace kvmport
