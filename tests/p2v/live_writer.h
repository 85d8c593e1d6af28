// SPDX-License-Identifier: Apache-2.0
// A thread that writes to a filesystem all the time: new files, an old one in place, deletions, a file that is deleted
// but open. It logs what it has synced and when, so that a copy can be compared, also by another process.
#pragma once

#include "tests/support/tempdir.h"

#include <atomic>
#include <chrono>
#include <fcntl.h>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <unistd.h>

namespace kvmport::test {

namespace fs = std::filesystem;

/// What was synced, and when.
struct LiveLog {
  using Clock = std::chrono::steady_clock;
  static constexpr unsigned block_count = 200, block_size = 4096;
  struct File {
    unsigned seed = 0;
    std::size_t size = 0;
    Clock::time_point synced, removing = Clock::time_point::max();
  };
  struct Verdict {
    unsigned compared = 0;
    std::vector<std::string> wrong;
  };

  std::map<std::string, File> files;
  /// Of each block of the file "blocks", which is written in place: when it was synced with which count.
  std::vector<std::vector<std::pair<Clock::time_point, unsigned>>> blocks =
      std::vector<std::vector<std::pair<Clock::time_point, unsigned>>>(block_count);

  static std::string text_of(unsigned seed, std::size_t size) {
    std::mt19937 random(seed);
    std::string text(size, '\0');
    for (char& c : text)
      c = static_cast<char>(random());
    return text;
  }
  static std::string block_text(unsigned count) {
    std::string text = std::to_string(count) + " ";
    text.resize(block_size, static_cast<char>('a' + count % 26));
    return text;
  }

  /// All that was synced before `moment` and not touched later must be in `copy` as it was.
  Verdict compare(const fs::path& copy, Clock::time_point moment) const {
    Verdict verdict;
    for (const auto& [name, file] : files) {
      if (file.synced >= moment || file.removing < moment)
        continue;
      verdict.compared++;
      std::ifstream in(copy / name, std::ios::binary);
      std::ostringstream all;
      all << in.rdbuf();
      if (all.str() != text_of(file.seed, file.size))
        verdict.wrong.push_back(name);
    }
    // What was synced of a block must be there, and what is later may be.
    std::ifstream in(copy / "blocks", std::ios::binary);
    for (unsigned i = 0; i < block_count; i++) {
      std::string block(block_size, '\0');
      in.seekg(static_cast<std::streamoff>(i * block_size));
      in.read(block.data(), static_cast<std::streamsize>(block.size()));
      unsigned wanted = 0;
      for (const auto& [when, count] : blocks[i])
        wanted = when < moment ? count : wanted;
      if (wanted == 0)
        continue;
      verdict.compared++;
      const auto found = static_cast<unsigned>(std::strtoul(block.c_str(), nullptr, 10));
      if (found < wanted || block != block_text(found))
        verdict.wrong.push_back("block " + std::to_string(i) + ": " + std::to_string(found) + " instead of " +
                                std::to_string(wanted));
    }
    return verdict;
  }

  /// One line each, `name` before it.
  void print(std::ostream& out, const std::string& name) const {
    for (const auto& [file, one] : files)
      out << name << " F " << file << " " << one.seed << " " << one.size << " " << one.synced.time_since_epoch().count()
          << " " << one.removing.time_since_epoch().count() << "\n";
    for (unsigned i = 0; i < block_count; i++)
      for (const auto& [when, count] : blocks[i])
        out << name << " B " << i << " " << count << " " << when.time_since_epoch().count() << "\n";
  }
  /// Of a text that has other lines too.
  static LiveLog parse(const std::string& text, const std::string& name) {
    LiveLog log;
    std::istringstream lines(text);
    const auto moment = [](std::int64_t count) { return Clock::time_point(Clock::duration(count)); };
    for (std::string line; std::getline(lines, line);) {
      std::istringstream in(line);
      std::string first, kind, file;
      unsigned block = 0, count = 0;
      std::int64_t synced = 0, removing = 0;
      File one;
      in >> first >> kind;
      if (first != name)
        continue;
      if (kind == "F" && in >> file >> one.seed >> one.size >> synced >> removing) {
        one.synced = moment(synced);
        one.removing = moment(removing);
        log.files[file] = one;
      } else if (kind == "B" && in >> block >> count >> synced && block < block_count) {
        log.blocks[block].emplace_back(moment(synced), count);
      }
    }
    return log;
  }
};

class LiveWriter {
 public:
  using Clock = LiveLog::Clock;

  explicit LiveWriter(fs::path directory) : directory_(std::move(directory)) {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  unsigned written() const { return written_; }
  /// Waits until so many files were written.
  void run_until(unsigned files) const {
    for (const auto end = Clock::now() + std::chrono::seconds(120); written_ < files;) {
      if (Clock::now() > end)
        throw std::runtime_error("the writer hangs");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  void pause(bool paused) { paused_ = paused; }
  void stop() {
    thread_.request_stop();
    thread_.join();
  }
  /// After stop().
  const LiveLog& log() const { return log_; }

 private:
  static void write_synced(const fs::path& path, std::string_view text, std::uint64_t offset) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    write_exact(fd.get(), offset, as_bytes(text), path.string());
    if (::fsync(fd.get()) != 0)
      throw std::runtime_error("fsync");
  }
  void write_file(const std::string& name, unsigned seed, std::size_t size) {
    write_synced(directory_ / name, LiveLog::text_of(seed, size), 0);
    log_.files[name] = {seed, size, Clock::now(), Clock::time_point::max()};
  }
  void write_block(unsigned block) {
    auto& syncs = log_.blocks[block];
    const unsigned count = syncs.empty() ? 1 : syncs.back().second + 1;
    write_synced(directory_ / "blocks", LiveLog::block_text(count), std::uint64_t{block} * LiveLog::block_size);
    syncs.emplace_back(Clock::now(), count);
  }
  void remove_file(const std::string& name) {
    log_.files[name].removing = Clock::now();
    fs::remove(directory_ / name);
  }

  void run(const std::stop_token& stop) {
    std::mt19937 random(1);
    const UniqueFd gone(::open((directory_ / "gone").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    fs::remove(directory_ / "gone");
    write_synced(directory_ / "blocks", std::string(LiveLog::block_count * LiveLog::block_size, '0'), 0);
    for (unsigned i = 1; !stop.stop_requested(); i++) {
      while (paused_ && !stop.stop_requested())
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      write_file("file" + std::to_string(i), i, 1 + random() % (i % 10 == 0 ? 600000 : 60000));
      for (unsigned k = 0; k < 3; k++)
        write_block(random() % LiveLog::block_count);
      write_exact(gone.get(), std::uint64_t{i % 100} * 8192, as_bytes(LiveLog::block_text(i)), "gone");
      if (i % 3 == 0 && i > 30)
        remove_file("file" + std::to_string(i - 30));
      written_ = i;
    }
  }

  const fs::path directory_;
  std::atomic<unsigned> written_{0};
  std::atomic<bool> paused_{false};
  LiveLog log_;         ///< of the thread alone, until it ends
  std::jthread thread_; ///< last: it ends before the rest goes
};

} // namespace kvmport::test
