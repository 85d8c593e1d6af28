// SPDX-License-Identifier: Apache-2.0
// A hostile receiver: any frames on the control connection and on those for data. Whatever it says, the session of the
// agent ends, with an error or with a result.
#include "libconvert/p2v/capture_session.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/p2v_frames.h"

#include <csignal>

namespace {

using namespace kvmport;

/// A disk of two chunks, the first half full; every pass finds something else on it.
class SmallDisk final : public Image {
 public:
  std::uint64_t size() const override { return p2v_chunk_size + 4096; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    for (std::size_t i = 0; i < out.size(); i++)
      out[i] = static_cast<std::byte>((offset + i) % 251 < 100 ? offset + i + pass : 0);
  }
  unsigned pass = 0;
};

/// What one connection says: a welcome, unless the input wants none, then what the input has.
Bytes speech(fuzz::Input& in) {
  Bytes stream;
  const auto kind = in.number(1) % 4;
  if (kind == 0) {
    const ByteSpan raw = in.take(in.number(2));
    return {raw.begin(), raw.end()};
  }
  fuzz::add_frame(stream, FrameType::welcome, as_bytes(encode(WelcomeMessage{p2v_protocol_version, "x", "t"})));
  for (auto frames = in.number(1) % 16; frames != 0 && !in.empty(); frames--) {
    const auto type = static_cast<FrameType>(in.number(1));
    if (type == FrameType::ack && kind == 1)
      fuzz::add_frame(stream, type, encode(AckMessage{0, in.number(1) % 4, in.number(1) % 2 == 0}));
    else
      fuzz::add_frame(stream, type, in.take(in.number(2)));
  }
  return stream;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  ::signal(SIGPIPE, SIG_IGN);
  Input in(data, size);
  CaptureOptions options;
  options.name = "m";
  options.streams = 2;
  ManifestMessage manifest{"run", "m", {}, {}, {}};
  manifest.machine.disks.resize(1);
  std::vector<CaptureDisk> disks;
  auto made = std::make_unique<SmallDisk>();
  SmallDisk& disk = *made;
  disks.push_back({std::move(made), 0, {}});
  std::vector<std::unique_ptr<CapturePlan>> plans;
  plans.push_back(std::make_unique<CapturePlan>(*disks[0].image));
  plans[0]->use({{0, p2v_chunk_size + 4096}});
  manifest.disks.push_back(plans[0]->manifest());
  RateLimit limit(0);
  NullSink sink;
  const StopToken stop;
  CaptureSession session(options, manifest, plans, disks, limit, sink, stop);
  const OpenLink open = [&] { return std::make_unique<LinkConnection>(speaker(speech(in)), nobody(), stop); };
  try {
    if (!session.connect(open)) {
      session.send(false);
      disk.pass++; // a live capture goes on with patches
      plans[0]->use({{4096, 4096}, {p2v_chunk_size, 4096}});
      session.send(true);
      session.finish(2);
    }
  } catch (const Error&) { // a refusal is an answer
  }
  CaptureStats stats;
  session.add_to(stats);
  return 0;
}
