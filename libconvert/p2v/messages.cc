// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/messages.h"

#include "libconvert/machine/text.h"
#include "libconvert/p2v/machine_json.h"
#include "libconvert/target/target.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport {

using nlohmann::json;

namespace {

constexpr std::size_t most_unreadable = 100000;
constexpr std::uint32_t zstd_flag = 1, patch_flag = 2;
constexpr std::size_t run_size = 32, chunk_head_size = 40, extent_size = 8, have_head_size = 8;

[[noreturn]] void reject(const std::string& why) {
  throw Error("PROTOCOL_ERROR", "the other side sent a message that makes no sense", why);
}

void require(bool condition, const std::string& why) {
  if (!condition)
    reject(why);
}

/// What `read` makes of the payload's JSON object.
template <class Read> auto parsed(ByteSpan payload, const Read& read) {
  const json object = decode_object(payload);
  try {
    return read(object);
  } catch (const json::exception& error) {
    reject(printable(error.what()));
  }
}

std::string checked_name(const json& j) {
  const auto name = j.at("name").get<std::string>();
  require(name.size() <= 200 && name == safe_name(name), "\"" + printable(name) + "\" can't be a name");
  return name;
}

json range_to_json(const Range& range) {
  return json::array({range.offset, range.length});
}

Range range_from_json(const json& j) {
  const Range range{j.at(0).get<std::uint64_t>(), j.at(1).get<std::uint64_t>()};
  require(range.offset <= largest_p2v_disk && range.length <= largest_p2v_disk, "a range of a disk");
  return range;
}

std::string hex(const Digest& digest) {
  return fmt::format("{:016x}{:016x}", digest.high, digest.low);
}

Digest digest_from_hex(const std::string& text) {
  require(text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string::npos, "a digest");
  return {std::stoull(text.substr(0, 16), nullptr, 16), std::stoull(text.substr(16), nullptr, 16)};
}

void store_digest(std::span<std::byte> to, std::size_t at, const Digest& digest) {
  store_le<std::uint64_t>(to, at, digest.low);
  store_le<std::uint64_t>(to, at + 8, digest.high);
}

Digest load_digest(ByteSpan from, std::size_t at) {
  return {load_le<std::uint64_t>(from, at + 8), load_le<std::uint64_t>(from, at)};
}

json wishes_to_json(const CaptureWishes& w) {
  return {{"convert", w.convert},   {"boot", w.boot},   {"force", w.force},    {"format", w.format},
          {"compress", w.compress}, {"until", w.until}, {"timeout", w.timeout}};
}

CaptureWishes wishes_from_json(const json& j) {
  CaptureWishes w;
  w.convert = j.at("convert").get<bool>();
  w.boot = j.at("boot").get<bool>();
  w.force = j.at("force").get<bool>();
  w.format = j.at("format").get<std::string>();
  w.compress = j.at("compress").get<std::string>();
  w.until = printable(j.at("until").get<std::string>());
  w.timeout = j.at("timeout").get<unsigned>();
  require(w.format == "raw" || w.format == "qcow2", "a disk format");
  require(w.compress == "none" || (w.format == "qcow2" && (w.compress == "zlib" || w.compress == "zstd")),
          "a compression");
  require(w.timeout >= 1 && w.timeout <= 86400, "a time limit");
  return w;
}

std::vector<std::string> clean_texts(const json& j) {
  auto texts = j.get<std::vector<std::string>>();
  for (auto& text : texts)
    text = printable(text, 500);
  return texts;
}

} // namespace

json decode_object(ByteSpan payload) {
  json object = json::parse(as_text(payload), nullptr, false);
  require(object.is_object(), "what should be JSON is not");
  return object;
}

// --- texts ---------------------------------------------------------------------------------------------------------

std::string encode(const HelloMessage& m) {
  return json{{"protocol", m.protocol},
              {"program", m.program},
              {"name", m.name},
              {"role", m.control ? "control" : "data"},
              {"token", m.token}}
      .dump();
}

HelloMessage decode_hello(ByteSpan payload) {
  return parsed(payload, [](const json& j) {
    HelloMessage m;
    m.protocol = j.at("protocol").get<unsigned>();
    m.program = printable(j.at("program").get<std::string>());
    if (m.protocol != p2v_protocol_version) // what else it says may mean something else there
      return m;
    m.name = checked_name(j);
    const auto role = j.at("role").get<std::string>();
    require(role == "control" || role == "data", "the role of a connection");
    m.control = role == "control";
    m.token = printable(j.value("token", std::string()));
    return m;
  });
}

std::string encode(const WelcomeMessage& m) {
  return json{{"protocol", m.protocol}, {"program", m.program}, {"token", m.token}}.dump();
}

WelcomeMessage decode_welcome(ByteSpan payload) {
  return parsed(payload, [](const json& j) {
    return WelcomeMessage{j.at("protocol").get<unsigned>(), printable(j.at("program").get<std::string>()),
                          j.value("token", std::string())};
  });
}

std::string encode(const ManifestMessage& m) {
  json disks = json::array();
  for (const auto& disk : m.disks)
    disks.push_back({{"size", disk.size}, {"used", disk.used}, {"notes", disk.notes}});
  return json{{"run", m.run},
              {"name", m.name},
              {"machine", machine_to_json(m.machine)},
              {"disks", std::move(disks)},
              {"wishes", wishes_to_json(m.wishes)}}
      .dump();
}

ManifestMessage decode_manifest(ByteSpan payload) {
  return parsed(payload, [](const json& j) {
    ManifestMessage m;
    m.run = printable(j.at("run").get<std::string>());
    m.name = checked_name(j);
    m.machine = machine_from_json(j.at("machine"));
    m.wishes = wishes_from_json(j.at("wishes"));
    for (const auto& disk : j.at("disks"))
      m.disks.push_back(
          {disk.at("size").get<std::uint64_t>(), disk.at("used").get<std::uint64_t>(), clean_texts(disk.at("notes"))});
    require(!m.disks.empty() && m.disks.size() <= most_p2v_disks, "the number of disks");
    require(m.disks.size() == m.machine.disks.size(), "disks without a description");
    for (const auto& disk : m.disks)
      require(disk.size >= 512 && disk.size <= largest_p2v_disk && disk.size % 512 == 0 && disk.used <= disk.size,
              "the size of a disk");
    return m;
  });
}

std::string ManifestMessage::identity() const {
  std::string id = name + "\n" + machine.uuid;
  for (std::size_t i = 0; i < disks.size(); i++)
    id += fmt::format("\n{} {} {}", machine.disks[i].source_name, machine.disks[i].serial, disks[i].size);
  return id;
}

std::string encode(const DoneMessage& m) {
  json disks = json::array();
  for (const auto& disk : m.disks) {
    json unreadable = json::array();
    for (const Range& range : disk.unreadable)
      unreadable.push_back(range_to_json(range));
    disks.push_back({{"digest", hex(disk.digest)}, {"unreadable", std::move(unreadable)}});
  }
  return json{{"disks", std::move(disks)}}.dump();
}

DoneMessage decode_done(ByteSpan payload) {
  return parsed(payload, [](const json& j) {
    DoneMessage m;
    for (const auto& disk : j.at("disks")) {
      DoneMessage::Disk d{digest_from_hex(disk.at("digest").get<std::string>()), {}};
      require(disk.at("unreadable").size() <= most_unreadable, "too many unreadable ranges");
      for (const auto& range : disk.at("unreadable"))
        d.unreadable.push_back(range_from_json(range));
      m.disks.push_back(std::move(d));
    }
    return m;
  });
}

std::string encode(const Error& error) {
  // Cut so that the frame is never too long, whatever is quoted in it.
  const auto cut = [](const std::string& text) { return clean_utf8(text).substr(0, 4000); };
  return json{
      {"code", error.code()}, {"what", cut(error.summary())}, {"why", cut(error.why())}, {"hint", cut(error.hint())}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

Error decode_error(ByteSpan payload) {
  return parsed(payload, [](const json& j) {
    const auto text = [&j](const char* key) { return printable(j.value(key, std::string()), 1000); };
    std::string code = text("code");
    if (code.empty() || code.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != std::string::npos)
      code = "PROTOCOL_ERROR";
    return Error(code, text("what"), text("why"), text("hint"));
  });
}

// --- numbers -------------------------------------------------------------------------------------------------------

Digest disk_digest(const std::vector<Digest>& chunks) {
  DigestStream stream;
  std::array<std::byte, 16> bytes{};
  for (const Digest& digest : chunks) {
    store_digest(bytes, 0, digest);
    stream.update(bytes);
  }
  return stream.finish();
}

Digest zero_digest(std::uint64_t length) {
  return digest_of(Bytes(length));
}

Bytes encode(const HaveMessage& m) {
  Bytes bytes(have_head_size + m.runs.size() * run_size);
  store_le<std::uint32_t>(bytes, 0, m.disk);
  store_le<std::uint32_t>(bytes, 4, static_cast<std::uint32_t>(m.runs.size()));
  std::size_t at = have_head_size;
  for (const ChunkRun& run : m.runs) {
    store_le<std::uint64_t>(bytes, at, run.first);
    store_le<std::uint64_t>(bytes, at + 8, run.count);
    store_digest(bytes, at + 16, run.digest);
    at += run_size;
  }
  return bytes;
}

HaveMessage decode_have(ByteSpan payload) {
  require(payload.size() >= have_head_size, "a list of chunks");
  HaveMessage m;
  m.disk = load_le<std::uint32_t>(payload, 0);
  const auto count = load_le<std::uint32_t>(payload, 4);
  require(payload.size() - have_head_size == std::size_t{count} * run_size, "the length of a list of chunks");
  for (std::size_t at = have_head_size; at < payload.size(); at += run_size)
    m.runs.push_back(
        {load_le<std::uint64_t>(payload, at), load_le<std::uint64_t>(payload, at + 8), load_digest(payload, at + 16)});
  return m;
}

Bytes encode(const AckMessage& m) {
  Bytes bytes(16);
  store_le<std::uint32_t>(bytes, 0, m.disk);
  store_le<std::uint32_t>(bytes, 4, m.stored ? 0 : 1);
  store_le<std::uint64_t>(bytes, 8, m.index);
  return bytes;
}

AckMessage decode_ack(ByteSpan payload) {
  require(payload.size() == 16 && load_le<std::uint32_t>(payload, 4) <= 1, "an acknowledgement");
  return {load_le<std::uint32_t>(payload, 0), load_le<std::uint64_t>(payload, 8),
          load_le<std::uint32_t>(payload, 4) == 0};
}

// disk 4, flags 4, index 8, digest 16, number of extents 4, plain length 4, extents of 8, data.
Bytes encode_head(const ChunkMessage& m) {
  Bytes bytes(chunk_head_size + m.extents.size() * extent_size);
  store_le<std::uint32_t>(bytes, 0, m.disk);
  store_le<std::uint32_t>(bytes, 4, (m.compressed ? zstd_flag : 0) | (m.patch ? patch_flag : 0));
  store_le<std::uint64_t>(bytes, 8, m.index);
  store_digest(bytes, 16, m.digest);
  store_le<std::uint32_t>(bytes, 32, static_cast<std::uint32_t>(m.extents.size()));
  store_le<std::uint32_t>(bytes, 36, m.plain);
  std::size_t at = chunk_head_size;
  for (const ChunkExtent& extent : m.extents) {
    store_le<std::uint32_t>(bytes, at, extent.offset);
    store_le<std::uint32_t>(bytes, at + 4, extent.length);
    at += extent_size;
  }
  return bytes;
}

ChunkMessage decode_chunk(ByteSpan payload) {
  require(payload.size() >= chunk_head_size, "a chunk");
  ChunkMessage m;
  m.disk = load_le<std::uint32_t>(payload, 0);
  const auto flags = load_le<std::uint32_t>(payload, 4);
  m.index = load_le<std::uint64_t>(payload, 8);
  m.digest = load_digest(payload, 16);
  const auto count = load_le<std::uint32_t>(payload, 32);
  m.plain = load_le<std::uint32_t>(payload, 36);
  require((flags & ~(zstd_flag | patch_flag)) == 0, "flags of a chunk");
  m.compressed = (flags & zstd_flag) != 0;
  m.patch = (flags & patch_flag) != 0;
  require(count <= (payload.size() - chunk_head_size) / extent_size, "the extents of a chunk");
  std::uint64_t end = 0, total = 0;
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t at = chunk_head_size + i * extent_size;
    const ChunkExtent extent{load_le<std::uint32_t>(payload, at), load_le<std::uint32_t>(payload, at + 4)};
    require(extent.offset >= end && extent.length != 0 && extent.offset % 512 == 0 && extent.length % 512 == 0,
            "an extent of a chunk");
    end = std::uint64_t{extent.offset} + extent.length;
    require(end <= p2v_chunk_size, "an extent beyond its chunk");
    total += extent.length;
    m.extents.push_back(extent);
  }
  m.data = payload.subspan(chunk_head_size + count * extent_size);
  require(total == m.plain && (m.compressed || m.data.size() == total), "the length of a chunk");
  return m;
}

std::vector<ChunkExtent> find_extents(ByteSpan chunk) {
  constexpr std::size_t block = 4096;
  std::vector<ChunkExtent> extents;
  for (std::size_t at = 0; at < chunk.size(); at += block) {
    const std::size_t length = std::min(block, chunk.size() - at);
    if (is_zero(chunk.subspan(at, length)))
      continue;
    if (!extents.empty() && extents.back().offset + extents.back().length == at)
      extents.back().length += static_cast<std::uint32_t>(length);
    else
      extents.push_back({static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(length)});
  }
  return extents;
}

} // namespace kvmport
