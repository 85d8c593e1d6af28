// SPDX-License-Identifier: Apache-2.0
#include "libconvert/inspect.h"

#include "base/file.h"
#include "libconvert/machine/machine.h"

namespace kvmport {
namespace {

/// Journals that are replayed and what mounting writes.
constexpr std::uint64_t overlay_cap = 4ULL << 30;

} // namespace

Inspection inspect_machine(const InspectOptions& options, EventSink& sink, const StopToken& stop) {
  Source source = open_source_machine(options.sources, options.source, sink);
  name_source_disks(source.machine);
  if (source.images.empty())
    throw Error("DISK_MISSING", "the machine " + source.machine.name + " has no hard disk");
  const TempDir sockets;
  std::vector<std::unique_ptr<Overlay>> overlays;
  std::vector<Overlay*> disks;
  for (const auto& image : source.images) {
    overlays.push_back(std::make_unique<Overlay>(*image, std::filesystem::temp_directory_path(), overlay_cap));
    disks.push_back(overlays.back().get());
  }
  const auto access = open_guest(source.machine, disks, options.guest, options.access, sockets.path(), sink, stop);
  Inspection found{access->info(), access->name()};
  access->finish();
  return found;
}

} // namespace kvmport
