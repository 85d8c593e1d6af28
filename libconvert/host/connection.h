// SPDX-License-Identifier: Apache-2.0
// The domains of a libvirt connection, as descriptions: read, and one defined when its disks are there. By libvirt's
// own client library (libvirt-domain.h). Errors: LIBVIRT_FAILED with libvirt's words, DOMAIN_NOT_FOUND.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace kvmport {

/// One thread at a time.
class LibvirtConnection {
 public:
  /// `uri` as virsh takes it: "qemu:///system", "test:///default".
  explicit LibvirtConnection(const std::string& uri);
  ~LibvirtConnection();
  LibvirtConnection(const LibvirtConnection&) = delete;
  LibvirtConnection& operator=(const LibvirtConnection&) = delete;

  /// The description with which the domain would be started, secrets included. Errors: SOURCE_RUNNING unless it is shut
  /// off, SOURCE_SUSPENDED when its memory is saved.
  std::string shut_off_domain(const std::string& name) const;
  /// The snapshots of a domain, by name.
  std::vector<std::string> snapshots(const std::string& name) const;
  /// The descriptions of all domains.
  std::vector<std::string> all_domains() const;
  void define(const std::string& xml) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace kvmport
