// SPDX-License-Identifier: Apache-2.0
// The guest of a clone's source, opened over private layers that take what is changed: the disks below stay as they
// are. A seat opens it again and again, for one clone after the other; where that takes the libguestfs appliance, it is
// launched once, and only its disks change.
#pragma once

#include "base/file.h"
#include "libconvert/clone/clone.h"

#include <functional>
#include <memory>
#include <vector>

namespace kvmport {

/// One overlay a disk.
class DiskLayers {
 public:
  /// `directory`: where what is written lies, at most `cap` bytes of each disk.
  DiskLayers(const std::vector<const Image*>& disks, const std::filesystem::path& directory, std::uint64_t cap);
  const std::vector<Overlay*>& all() const { return borrowed_; }

 private:
  std::vector<std::unique_ptr<Overlay>> layers_;
  std::vector<Overlay*> borrowed_;
};

std::vector<const Image*> borrowed(const std::vector<std::unique_ptr<Image>>& images);

/// One thread. The machine, images, options, sink and stop must outlive it.
class GuestSeat {
 public:
  GuestSeat(const Machine& machine, std::vector<const Image*> disks, const CloneOptions& options, EventSink& sink,
            const StopToken& stop);
  ~GuestSeat();
  GuestSeat(const GuestSeat&) = delete;
  GuestSeat& operator=(const GuestSeat&) = delete;

  using Work = std::function<void(GuestAccess&)>;
  /// `layers` are over the disks, and unwritten. Afterwards they hold all that `work` changed. Errors: those of
  /// open_guest() and of the work.
  void open(const DiskLayers& layers, const Work& work);
  /// The same for a look that changes nothing.
  void look(const Work& work);
  /// Ends what was opened; the next open() begins anew. For callers that need its memory.
  void close() { access_.reset(); }
  /// How many times a guest was opened anew, and how many times the one that was there served again.
  std::size_t opened() const { return opened_; }
  std::size_t served_again() const { return served_again_; }

 private:
  void leave();

  const Machine& machine_;
  std::vector<const Image*> disks_;
  const CloneOptions& options_;
  EventSink& sink_;
  const StopToken& stop_;
  TempDir sockets_;
  std::unique_ptr<DiskLayers> idle_; ///< what the access sees between two clones
  std::unique_ptr<GuestAccess> access_;
  std::size_t opened_ = 0, served_again_ = 0;
};

} // namespace kvmport
