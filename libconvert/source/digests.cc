// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/manifest.h"
#include "libconvert/source/source.h"

#include <exception>
#include <set>
#include <thread>
#include <tuple>

namespace kvmport {
namespace {

/// One thread that reads the files one after the other.
class DigestJob {
 public:
  DigestJob(std::vector<FilePiece> pieces, const StopToken& stop) : pieces_(std::move(pieces)), outer_(stop) {
    thread_ = std::thread([this] { run(); });
  }
  DigestJob(const DigestJob&) = delete;
  DigestJob& operator=(const DigestJob&) = delete;
  ~DigestJob() {
    abandoned_.request();
    if (thread_.joinable())
      thread_.join();
  }
  void wait() {
    if (thread_.joinable())
      thread_.join();
    if (error_)
      std::rethrow_exception(error_);
  }

 private:
  void run() noexcept {
    try {
      for (const FilePiece& piece : pieces_)
        check(piece);
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  void check(const FilePiece& piece) const {
    const UniqueFd fd = open_source(piece.path);
    const std::uint64_t whole = piece.window.length == 0 ? file_size(fd.get()) : piece.window.length;
    Digest digest(piece.digest);
    Bytes buffer(1U << 20);
    for (std::uint64_t done = 0; done < whole;) {
      abandoned_.check();
      outer_.check();
      const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), whole - done));
      read_exact(fd.get(), piece.window.offset + done, part, piece.path.string());
      digest.add(part);
      done += part.size();
    }
    if (const std::string found = digest.result(); found != piece.digest)
      throw manifest_mismatch(piece.path.string(),
                              "the digest of a disk is " + found + ", the manifest says " + piece.digest);
  }

  std::vector<FilePiece> pieces_;
  const StopToken& outer_;
  StopToken abandoned_;
  std::exception_ptr error_;
  std::thread thread_;
};

} // namespace

std::function<void()> verify_digests(const Machine& machine, const StopToken& stop) {
  std::vector<FilePiece> pieces;
  std::set<std::tuple<std::string, std::uint64_t, std::uint64_t>> seen;
  const auto add = [&](const FilePiece& piece) {
    if (!piece.digest.empty() && seen.emplace(piece.path.string(), piece.window.offset, piece.window.length).second)
      pieces.push_back(piece);
  };
  for (const MachineDisk& disk : machine.disks) {
    add({disk.path, disk.window, disk.digest});
    for (const FilePiece& piece : disk.more_pieces)
      add(piece);
  }
  if (pieces.empty())
    return [] {};
  auto job = std::make_shared<DigestJob>(std::move(pieces), stop);
  return [job] { job->wait(); };
}

} // namespace kvmport
