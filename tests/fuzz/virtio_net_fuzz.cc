// SPDX-License-Identifier: Apache-2.0
// A hostile driver of a virtio network card, and hostile frames on its cable.
#include "base/hub.h"
#include "kvmboot/vmm/virtio_net.h"
#include "tests/fuzz/vmm_fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

namespace {

using namespace kvmport;

/// A datagram socket whose other end is another port.
struct Cable {
  Cable() {
    int ends[2];
    fuzz::must(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends) == 0);
    card = UniqueFd(ends[0]);
    port = UniqueFd(ends[1]);
  }
  void send(ByteSpan frame) const { (void)!::write(port.get(), frame.data(), frame.size()); }
  /// What the card sent: frames only.
  void drain() const {
    std::byte frame[max_frame + 1];
    for (ssize_t length; (length = ::read(port.get(), frame, sizeof frame)) >= 0;)
      fuzz::must(length >= static_cast<ssize_t>(min_frame) && length <= static_cast<ssize_t>(max_frame));
  }
  UniqueFd card, port;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  constexpr std::uint32_t bar = 0xe0000000;
  Input in(data, size);
  const Cable cable;
  vmm::VirtioNet net("52:54:00:12:34:56", cable.card.get());
  vmm::Bus mmio;
  Card card(net, guarded_memory(Driver::memory_size), mmio);
  card.pci().config_write(Card::bar0, 4, bar);
  card.pci().config_write(Card::command, 2, 2);
  while (!in.empty()) {
    if (const auto kind = in.number(1); kind < 0x20) {
      cable.send(in.take(in.number(2) % 2000));
      net.take_frames();
      card.pci().serve(vmm::VirtioNet::receive_queue);
    } else {
      card.driver().step(in, bar);
    }
    card.check();
    cable.drain();
  }
  return 0;
}
