// SPDX-License-Identifier: Apache-2.0
// A hostile agent: any bytes, or any frames after a proper beginning, or any chunks for a disk. Whatever it says, the
// receiver ends, and writes nothing but the spool of the one machine in its directory.
#include "libconvert/p2v/receive.h"
#include "libconvert/p2v/spool.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/p2v_frames.h"

#include <csignal>

namespace fs = std::filesystem;

namespace {

using namespace kvmport;

constexpr std::uint64_t disk_size = p2v_chunk_size + 4096;

ManifestMessage small_manifest() {
  ManifestMessage m{"run", "m", {}, {{disk_size, 4096, {}}}, {}};
  m.machine.disks.resize(1);
  m.wishes.convert = false;
  return m;
}

void receive(const fs::path& directory, ByteSpan stream) {
  NullSink sink;
  const StopToken stop;
  ReceiveOptions options;
  options.directory = directory / "out";
  options.grace = std::chrono::milliseconds(0);
  options.deliver = [](const CapturedMachine&, EventSink&, const StopToken&) {
    return nlohmann::json{{"proven", false}};
  };
  receive_machine(fuzz::speaker(stream), fuzz::nobody(), options, sink, stop);
}

/// Chunks as they come off the wire, some of them made to fit their digest.
void store(const fs::path& directory, fuzz::Input& in) {
  SpooledDisk disk(directory / "sda.img", disk_size, "id");
  Bytes scratch;
  while (!in.empty()) {
    const bool mend = in.number(1) % 2 == 0;
    const ByteSpan payload = in.take(in.number(2));
    try {
      ChunkMessage chunk = decode_chunk(payload);
      if (mend && !chunk.compressed && chunk.index < 2) {
        Bytes whole(chunk.index == 0 ? p2v_chunk_size : 4096);
        if (chunk.patch)
          open_image(directory / "sda.img", {.format = "raw", .allowed_directories = {}, .window = {}})
              ->read(chunk.index * p2v_chunk_size, whole);
        std::size_t at = 0;
        for (const auto& extent : chunk.extents) {
          if (extent.offset + extent.length <= whole.size())
            std::memcpy(whole.data() + extent.offset, chunk.data.data() + at, extent.length);
          at += extent.length;
        }
        chunk.digest = digest_of(whole);
      }
      disk.store(chunk, scratch);
    } catch (const Error&) { // a refusal is an answer
    }
  }
  NullSink sink;
  const StopToken stop;
  fuzz::must(disk.verify(sink, stop));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  ::signal(SIGPIPE, SIG_IGN);
  Input in(data, size);
  const auto mode = in.number(1) % 3;
  const TempDir directory;
  try {
    if (mode == 0) {
      receive(directory.path(), in.take(size));
    } else if (mode == 1) {
      Bytes stream;
      add_frame(stream, FrameType::hello, as_bytes(encode(HelloMessage{p2v_protocol_version, "x", "m", true, {}})));
      add_frame(stream, FrameType::manifest, as_bytes(encode(small_manifest())));
      while (!in.empty()) {
        const auto type = static_cast<FrameType>(in.number(1));
        add_frame(stream, type, in.take(in.number(2)));
      }
      receive(directory.path(), stream);
    } else {
      store(directory.path(), in);
    }
  } catch (const Error&) { // a refusal is an answer
  }
  for (const auto& entry : fs::directory_iterator(directory.path())) {
    const std::string name = entry.path().filename();
    must(name == "out" || name.starts_with("sda.img"));
  }
  return 0;
}
