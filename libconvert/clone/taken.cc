// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/taken.h"

#include "base/error.h"
#include "libconvert/machine/text.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <array>
#include <limits>

namespace kvmport {
namespace {

/// Values that are tried one after the other: more machines than a host runs.
constexpr int most_attempts = 10'000;

/// Where identities stand: in this attribute (or the text, without one) of elements of this name and parent.
struct Place {
  const char *parent, *element, *attribute;
  Identity kind;
};

constexpr Place places[] = {
    {"domain", "name", nullptr, Identity::name},
    {"domain", "uuid", nullptr, Identity::uuid},
    {"domain", "hwuuid", nullptr, Identity::uuid},
    {"domain", "genid", nullptr, Identity::uuid},
    {"memory", "uuid", nullptr, Identity::uuid},
    {"interface", "mac", "address", Identity::mac},
    {"interface", "target", "dev", Identity::net_device},
    {"virtualport", "parameters", "interfaceid", Identity::uuid},
    {"virtualport", "parameters", "instanceid", Identity::uuid},
    {"virtualport", "parameters", "profileid", Identity::uuid},
    {"vsock", "cid", "address", Identity::vsock_cid},
    {"disk", "serial", nullptr, Identity::serial},
    {"disk", "wwn", nullptr, Identity::wwn},
    {"controller", "serial", nullptr, Identity::serial},
    {"initiator", "iqn", "name", Identity::iqn},
    {"devices", "shmem", "name", Identity::shmem},
    {"devices", "graphics", "port", Identity::port},
    {"devices", "graphics", "tlsPort", Identity::port},
    {"devices", "graphics", "websocket", Identity::port},
    {"devices", "graphics", "socket", Identity::path},
    {"graphics", "listen", "socket", Identity::path},
    {"interface", "source", "port", Identity::port},
    {"source", "local", "port", Identity::port},
    {nullptr, "range", "start", Identity::port},
    {nullptr, "source", "service", Identity::port},
    {nullptr, "source", "path", Identity::path},
    {nullptr, "source", "file", Identity::path},
    {nullptr, "source", "dev", Identity::path},
    {nullptr, "source", "dir", Identity::path},
    {nullptr, "source", "socket", Identity::path},
    {nullptr, "log", "file", Identity::path},
    {nullptr, "server", "path", Identity::path},
    {"interface", "backend", "logFile", Identity::path},
    {"os", "nvram", nullptr, Identity::path},
    {"os", "varstore", "path", Identity::path},
    {"source", "path", nullptr, Identity::path},
    {"pstore", "path", nullptr, Identity::path},
    {"devices", "audio", "path", Identity::path},
};

std::string canonical(Identity kind, std::string_view value) {
  const std::string_view plain = kind == Identity::name ? value : trimmed(value);
  switch (kind) {
  case Identity::uuid:
    return parse_uuid(plain).value_or(lower(plain));
  case Identity::mac:
    return parse_mac(plain).value_or(lower(plain));
  case Identity::serial:
    return parse_uuid(plain).value_or(std::string(plain));
  case Identity::wwn:
  case Identity::iqn:
    return lower(plain);
  default:
    return std::string(plain);
  }
}

void add_all(TakenIdentities& taken, const XmlNode& node) {
  for (const Place& place : places) {
    if (node.name != place.element)
      continue;
    if (place.parent != nullptr && (node.parent == nullptr || node.parent->name != place.parent))
      continue;
    if (place.attribute == nullptr)
      taken.add(place.kind, node.text);
    else if (node.find(place.attribute) != nullptr)
      taken.add(place.kind, node.attribute(place.attribute));
  }
  for (const auto& child : node.children)
    add_all(taken, *child);
}

template <std::size_t size> std::array<unsigned char, size> random_bytes() {
  std::array<unsigned char, size> bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(size)) != 1)
    throw Error("IO_ERROR", "no random bytes", "OpenSSL's generator failed");
  return bytes;
}

[[noreturn]] void exhausted(const std::string& what) {
  throw Error("IDENTITY_EXHAUSTED", "no free " + what + " was found", "all that were tried belong to other machines");
}

} // namespace

void TakenIdentities::add(Identity kind, std::string_view value) {
  claim(kind, value);
}

bool TakenIdentities::has(Identity kind, std::string_view value) const {
  return values_.contains({kind, canonical(kind, value)});
}

bool TakenIdentities::claim(Identity kind, std::string_view value) {
  return values_.emplace(kind, canonical(kind, value)).second;
}

void TakenIdentities::add_domain(const std::string& xml, const std::string& name) {
  add_domain(XmlEditor(xml, name).root());
}

void TakenIdentities::add_domain(const XmlNode& domain) {
  add_all(*this, domain);
}

std::string new_uuid(TakenIdentities& taken) {
  for (;;) {
    auto bytes = random_bytes<16>();
    bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0F) | 0x40); // version 4
    bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3F) | 0x80); // the variant of RFC 4122
    std::string uuid;
    for (std::size_t i = 0; i < bytes.size(); i++)
      uuid += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", bytes[i]);
    if (taken.claim(Identity::uuid, uuid))
      return uuid;
  }
}

std::string new_mac(TakenIdentities& taken, const std::optional<std::string>& seed, const std::string& clone,
                    std::size_t card) {
  using namespace std::string_literals;
  for (int attempt = 0; attempt < most_attempts; attempt++) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> octets;
    if (seed) {
      const std::string input = *seed + "\0"s + clone + "\0"s + std::to_string(card) + "\0"s + std::to_string(attempt);
      if (EVP_Digest(input.data(), input.size(), octets.data(), nullptr, EVP_sha256(), nullptr) != 1)
        throw Error("IO_ERROR", "no MAC address can be made", "OpenSSL's SHA-256 failed");
    } else {
      octets = random_bytes<EVP_MAX_MD_SIZE>();
    }
    const std::string mac = fmt::format("52:54:00:{:02x}:{:02x}:{:02x}", octets[0], octets[1], octets[2]);
    if (taken.claim(Identity::mac, mac))
      return mac;
  }
  exhausted("MAC address");
}

std::string new_serial(TakenIdentities& taken) {
  for (;;) {
    std::string serial;
    for (unsigned char byte : random_bytes<8>())
      serial += fmt::format("{:02X}", byte);
    if (taken.claim(Identity::serial, serial))
      return serial;
  }
}

std::string new_wwn(TakenIdentities& taken, const std::string& old) {
  const bool known = old.size() == 16 && old.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
  const std::string vendor = known ? old.substr(0, 7) : "5525400"; // NAA 5, and the prefix of QEMU's MAC addresses
  for (;;) {
    std::string wwn = vendor;
    for (unsigned char byte : random_bytes<9>())
      wwn += fmt::format("{:x}", byte & 0x0F);
    if (taken.claim(Identity::wwn, wwn))
      return wwn;
  }
}

std::uint16_t new_port(TakenIdentities& taken, std::uint16_t old) {
  unsigned port = old;
  for (int attempt = 0; attempt < 65536; attempt++) {
    port = port >= 65535 ? 1024 : port + 1;
    if (taken.claim(Identity::port, std::to_string(port)))
      return static_cast<std::uint16_t>(port);
  }
  exhausted("port");
}

std::uint32_t new_vsock_cid(TakenIdentities& taken, std::uint32_t old) {
  constexpr std::uint32_t first = 3, last = std::numeric_limits<std::uint32_t>::max() - 1;
  std::uint32_t cid = old;
  for (int attempt = 0; attempt < most_attempts; attempt++) {
    cid = cid < first || cid >= last ? first : cid + 1;
    if (taken.claim(Identity::vsock_cid, std::to_string(cid)))
      return cid;
  }
  exhausted("vsock context id");
}

std::string new_net_device(TakenIdentities& taken, const std::string& old) {
  for (int number = 1; number < most_attempts; number++) {
    const std::string suffix = fmt::format("-c{}", number);
    const std::string name = old.substr(0, 15 - suffix.size()) + suffix;
    if (taken.claim(Identity::net_device, name))
      return name;
  }
  exhausted("name of a network device");
}

std::string new_by_number(TakenIdentities& taken, Identity kind, const std::string& wanted) {
  if (taken.claim(kind, wanted))
    return wanted;
  for (int number = 2; number < most_attempts; number++)
    if (const std::string name = fmt::format("{}-{}", wanted, number); taken.claim(kind, name))
      return name;
  exhausted("name like " + printable(wanted, 80));
}

} // namespace kvmport
