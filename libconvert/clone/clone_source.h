// SPDX-License-Identifier: Apache-2.0
// What is cloned: a domain of a libvirt connection, a description with its disks, or bare disks; and who else is there,
// so that no clone takes another machine's identity.
#pragma once

#include "libconvert/clone/taken.h"
#include "libconvert/source/source.h"

#include <filesystem>
#include <string>
#include <vector>

namespace kvmport {

class LibvirtConnection;

struct CloneSource {
  std::string name;
  std::string xml;  ///< the domain's description; empty: bare disks
  std::string file; ///< whose it is, for messages
  Source source;    ///< machine and images; names of disks filled in
  /// One per machine.disks.
  struct Disk {
    std::string target;  ///< "vda"; for bare disks "sda", "sdb", …
    std::string written; ///< its path as the description has it
    bool shared = false; ///< readonly or shareable: the clone uses the same
  };
  std::vector<Disk> disks;
  TakenIdentities taken; ///< of every machine that is known
  std::vector<std::string> notes;
};

/// Where clones go (empty: to the first disk's directory), and which files there will be replaced.
struct CloneNeighbours {
  std::filesystem::path output;
  std::vector<std::string> replaced;
};

/// `paths`: one libvirt description, or disk images. Descriptions (*.xml) of other domains in the same directory and in
/// the output count as taken. Errors: those of open_source_machine, DESCRIPTION_UNSUPPORTED for one of another
/// hypervisor.
CloneSource open_clone_source(const std::vector<std::filesystem::path>& paths, const SourceOptions& options,
                              const CloneNeighbours& neighbours, EventSink& sink);
/// A domain of a connection; it may use every file that its description names. Errors: those of LibvirtConnection too.
CloneSource open_clone_source(const LibvirtConnection& connection, const std::string& domain,
                              const SourceOptions& options, const CloneNeighbours& neighbours, EventSink& sink);

} // namespace kvmport
