// SPDX-License-Identifier: Apache-2.0
// Enrolment: how a boot medium that holds no secret becomes one that the server lets in.
//
// At each boot the medium makes a key of its own and sends its public half to `kvm-p2v accept` on the server, over
// plain TCP. Both ends show a short code, a person compares them, and the key goes to authorized_keys, where it may
// start `kvm-p2v receive` for one directory and nothing else.
//
// Why that is enough. The code is a digest of the medium's key and of the fingerprint of the server's ssh host key that
// each end sees. Whoever sits between the two can
//  - give the server another key: the codes are equal only when that key's digest agrees with the code that the medium
//    shows already, in all its 50 bits;
//  - give the medium another host key: it is in the digest too, so the codes differ again, and the medium logs in only
//    where that host key is. So the medium need not know the server's fingerprint beforehand.
// A false key would have to be found while the person waits, as the medium's is new at each boot: 2^49 tries on
// average, and each costs `enrol_rounds` of SHA-256 (PBKDF2), 2^65 in all, for a chance that is gone when the person
// answers. The request itself is not secret, and the answer is only a hint: what counts is that the login works. An
// attacker can therefore prevent an enrolment but not take one over, as long as the person compares the codes.
#pragma once

#include "base/events.h"
#include "base/file.h"

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace kvmport {

inline constexpr unsigned enrol_rounds = 100000;
inline constexpr std::size_t largest_enrol_message = 512;

/// What the medium asks for.
struct EnrolRequest {
  std::string key;  ///< "ssh-ed25519 AAAA…", without a comment
  std::string name; ///< of the machine: at most 63 letters, digits and . _ -
};

/// An ed25519 public key as ssh-keygen writes it, without its comment; its blob is checked byte by byte (RFC 8709, 4).
/// Error ENROL_INVALID.
std::string parse_public_key(std::string_view line);
/// The code that both ends show, "ABCDE-23456": 10 digits of base 32 (RFC 4648) of PBKDF2-HMAC-SHA256 over key and
/// fingerprint ("SHA256:…").
std::string enrol_code(const std::string& key, const std::string& host_key_fingerprint);
/// The same code however a person typed it: lower case, without the dash. Empty when it is none.
std::string normalized_code(std::string_view typed);
/// "SHA256:…" of a public key line.
std::string key_fingerprint_of(const std::string& key);

/// A message: length (2 bytes, big endian, at most largest_enrol_message), then that many bytes. A request is three
/// lines, "kvmport-enrol 1", key and name; an answer is "accepted" or "refused".
std::string encode_request(const EnrolRequest& request);
EnrolRequest decode_request(std::string_view text);
void send_message(int socket, std::string_view text);
/// Error ENROL_INVALID when it is too long, CONNECTION_LOST when it does not come in time.
std::string receive_message(int socket, std::chrono::milliseconds timeout, const StopToken& stop);

/// A connection to HOST:PORT. Errors: CONNECTION_LOST.
UniqueFd connect_tcp(const std::string& host, std::uint16_t port, std::chrono::milliseconds timeout);

/// Listens for requests.
class EnrolListener {
 public:
  /// `address`: an IPv4 or IPv6 address of this host; empty: all. Port 0: any. Errors: IO_ERROR.
  EnrolListener(const std::string& address, std::uint16_t port);
  std::uint16_t port() const { return port_; }

  struct Caller {
    UniqueFd socket;
    std::string address; ///< for people
    EnrolRequest request;
  };
  /// The next well-formed request; what else comes is dropped and told to `events`. A caller has a few seconds to say
  /// it. Nothing after `until`.
  std::optional<Caller> next(std::chrono::steady_clock::time_point until, EventSink& events, const StopToken& stop);

 private:
  UniqueFd socket_;
  std::uint16_t port_ = 0;
};

/// The line for authorized_keys: this key may start `program receive --only directory` and nothing else. Both must be
/// absolute and made of characters that need no quoting. Error SETTING_INVALID.
std::string authorized_line(const EnrolRequest& request, const std::string& program, const std::string& directory);
/// Appends the line, making file (0600) and folder (0700) where they are missing. A key that is in the file already
/// with the same line is not added again.
void authorize(const std::filesystem::path& authorized_keys, const std::string& line);

} // namespace kvmport
