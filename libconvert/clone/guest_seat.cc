// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/guest_seat.h"

#include "libconvert/boot_machine.h"

#include <fmt/format.h>

namespace fs = std::filesystem;

namespace kvmport {

DiskLayers::DiskLayers(const std::vector<const Image*>& disks, const fs::path& directory, std::uint64_t cap) {
  for (const Image* disk : disks) {
    layers_.push_back(std::make_unique<Overlay>(*disk, directory, cap));
    borrowed_.push_back(layers_.back().get());
  }
}

std::vector<const Image*> borrowed(const std::vector<std::unique_ptr<Image>>& images) {
  std::vector<const Image*> all;
  for (const auto& image : images)
    all.push_back(image.get());
  return all;
}

GuestSeat::GuestSeat(const Machine& machine, std::vector<const Image*> disks, const CloneOptions& options,
                     EventSink& sink, const StopToken& stop)
    : machine_(machine), disks_(std::move(disks)), options_(options), sink_(sink), stop_(stop) {}

GuestSeat::~GuestSeat() {
  access_.reset(); // before what it looks at
}

void GuestSeat::open(const DiskLayers& layers, const Work& work) {
  if (access_) {
    try {
      access_->resume(layers.all());
      served_again_++;
    } catch (const Error&) { // a new one may fare better: nothing was written yet
      stop_.check();
      access_.reset();
    }
  }
  try {
    if (!access_) {
      const fs::path sockets = sockets_.path() / fmt::format("{}", opened_++);
      fs::create_directory(sockets);
      access_ = open_guest(machine_, layers.all(), options_.guest, options_.access, sockets, sink_, stop_);
    }
    work(*access_);
    leave();
  } catch (...) {
    access_.reset(); // it looks at layers that go now
    throw;
  }
}

void GuestSeat::leave() {
  if (!idle_)
    idle_ = std::make_unique<DiskLayers>(disks_, fs::temp_directory_path(), proof_overlay_cap);
  if (access_->rest(idle_->all()))
    return;
  access_->finish();
  access_.reset();
}

void GuestSeat::look(const Work& work) {
  const DiskLayers layers(disks_, fs::temp_directory_path(), proof_overlay_cap);
  open(layers, work);
}

} // namespace kvmport
