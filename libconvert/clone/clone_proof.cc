// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_proof.h"

#include "kvmboot/probe.h"
#include "libconvert/boot_machine.h"
#include "libconvert/clone/network_watch.h"
#include "libconvert/machine/text.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <mutex>
#include <thread>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// For a guest of ordinary speed to ask for an address and to write what it made; then it is looked at.
constexpr std::chrono::seconds linger{10};
constexpr std::uint64_t most_memory = 2ULL << 30, most_memory_together = 1ULL << 30;
/// What an identity calls the first card's address; "mac 2" is the second's.
constexpr const char* mac_name = "mac";
/// Of a card, all in one text; "address" is what the disks say.
constexpr const char *address_name = "heard-address", *address_separator = ", ";

/// Tells when a boot has left the firmware and boot loader behind, which wait for the disk without pause: several of
/// them at once starve each other on a host with few processors.
class KernelWatch final : public EventSink {
 public:
  explicit KernelWatch(EventSink& sink) : sink_(sink) {}
  void stage(std::string_view name, std::string_view text) override { sink_.stage(name, text); }
  void progress(std::string_view name, std::uint64_t done, std::uint64_t total) override {
    sink_.progress(name, done, total);
  }
  void message(Level level, std::string_view code, std::string_view text) override {
    sink_.message(level, code, text);
    if (code == "MILESTONE" && text.starts_with(to_string(Milestone::kernel)))
      go_on();
  }
  void go_on() {
    const std::lock_guard lock(mutex_);
    reached_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return reached_; });
  }

 private:
  EventSink& sink_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
};

std::map<std::string, std::string> identity_of(const CloneRun& run, const Machine& machine,
                                               const std::vector<const Image*>& disks) {
  std::map<std::string, std::string> identity;
  GuestSeat(machine, disks, run.options, run.sink, run.stop).look([&](GuestAccess& guest) {
    identity = main_identity(guest.info(), guest.filesystem());
  });
  for (std::size_t i = 0; i < machine.nics.size(); i++)
    if (!machine.nics[i].mac.empty())
      identity[mac_name + (i == 0 ? std::string() : fmt::format(" {}", i + 1))] = lower(machine.nics[i].mac);
  return identity;
}

/// One clone, until it was looked at.
void prove_one(const CloneRun& run, CloneJob& job, const fs::path& hub, std::size_t together, EventSink& sink) {
  auto bootable = job.bootable();
  std::vector<Overlay*> disks;
  for (const auto& overlay : bootable.overlays)
    disks.push_back(overlay.get());
  BootSpec spec = boot_spec_of(bootable.machine, disks);
  spec.memory = std::clamp<std::uint64_t>(spec.memory, 256ULL << 20, together > 1 ? most_memory_together : most_memory);
  if (together > 1)
    spec.cpus = 1;
  for (BootNic& nic : spec.nics)
    nic.hub = hub;
  for (const Key& key : run.options.guest.keys)
    spec.answers.push_back({"[Pp]assphrase|unlock disk", key.passphrase + "\n", 3});
  const std::string& name = job.request().name;
  spec.screenshot = run.output / (name + ".screenshot.png.partial");
  const auto engine = make_engine(run.options.engine, sink);
  // They share the processors.
  const double slower =
      std::max(1.0, static_cast<double>(together) / std::max(1U, std::thread::hardware_concurrency()));
  spec.timeout = std::chrono::duration_cast<std::chrono::seconds>(run.options.timeout * slower);
  spec.linger = std::chrono::duration_cast<std::chrono::seconds>(linger * slower * engine->time_scale());
  CloneOutcome& outcome = job.outcome();
  outcome.verdict =
      prove_boot(*engine, spec, Milestone::login, run.output / (name + ".serial.log.partial"), sink, run.stop);
  run.stop.check();
  if (!outcome.verdict->proven)
    return;
  bootable.machine.disks.resize(bootable.images.size()); // its own
  outcome.identity = identity_of(run, bootable.machine,
                                 {disks.begin(), disks.begin() + static_cast<std::ptrdiff_t>(bootable.images.size())});
}

std::string joined(const std::set<IpAddress>& addresses) {
  std::string text;
  for (const IpAddress& address : addresses)
    text += (text.empty() ? "" : address_separator) + address.text();
  return text;
}

/// What the network knows of a clone joins its identity. Whether it has its address only that tells.
void add_what_was_heard(CloneJob& job, const std::set<std::string>& cards_of_others, const NetworkWatch& watch,
                        EventSink& sink) {
  CloneOutcome& outcome = job.outcome();
  auto clients = watch.clients();
  auto addresses = watch.addresses();
  std::map<std::string, std::string> found;
  for (const auto& [name, value] : outcome.identity) {
    if (!name.starts_with(mac_name))
      continue;
    const std::string card = name.substr(std::string_view(mac_name).size());
    if (const auto client = clients.find(value); client != clients.end())
      found["dhcp-client" + card] = client->second;
    if (const auto holds = addresses.find(value); holds != addresses.end())
      found[address_name + card] = joined(holds->second);
  }
  if (outcome.identity.contains(mac_name))
    for (const IpNetwork& network : job.request().address.addresses)
      // A bridge may have made up a card's address of its own.
      if (std::none_of(addresses.begin(), addresses.end(), [&](const auto& holder) {
            return holder.second.contains(network.address) && !cards_of_others.contains(holder.first);
          }))
        sink.message(EventSink::Level::warning, "ADDRESS_NOT_SEEN",
                     fmt::format("{} came up, but its address {} was not heard on its network", job.request().name,
                                 network.address.text()));
  outcome.identity.merge(found);
}

} // namespace

void prove_clones(const CloneRun& run, const std::vector<CloneJob*>& jobs) {
  const TempDir directory;
  const fs::path hub = directory.path() / "hub";
  std::vector<IpNetwork> wanted;
  for (const CloneJob* job : jobs)
    for (const IpNetwork& network : job->request().address.addresses)
      wanted.push_back(network);
  const NetworkWatch watch(hub, wanted);
  std::deque<KernelWatch> watches; // outlive the threads
  std::vector<std::jthread> threads;
  for (CloneJob* job : jobs) {
    if (!watches.empty())
      watches.back().wait();
    KernelWatch& events = watches.emplace_back(run.sink);
    threads.emplace_back([&, job] {
      try {
        prove_one(run, *job, hub, jobs.size(), events);
      } catch (const Error& error) {
        job->outcome().error = error;
      } catch (const std::exception& error) {
        job->outcome().error = Error("IO_ERROR", error.what());
      }
      events.go_on();
    });
  }
  threads.clear();
  for (CloneJob* job : jobs) {
    std::set<std::string> cards_of_others;
    for (CloneJob* other : jobs)
      for (const auto& [name, value] : other->outcome().identity)
        if (other != job && name.starts_with(mac_name))
          cards_of_others.insert(value);
    add_what_was_heard(*job, cards_of_others, watch, run.sink);
  }
}

std::map<std::string, std::string> source_identity(const CloneRun& run) {
  return identity_of(run, run.source.source.machine, borrowed(run.source.source.images));
}

std::vector<std::string> shared_after_boot(const std::map<std::string, std::string>& source,
                                           const std::vector<CloneOutcome>& clones) {
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> holders; // of each value
  for (const auto& [name, value] : source)
    holders[{name, value}].emplace_back("the source");
  for (const CloneOutcome& clone : clones)
    for (const auto& [name, value] : clone.identity)
      if (name.starts_with(address_name)) // whichever card has it
        for (std::size_t at = 0; at < value.size();) {
          const std::size_t end = std::min(value.find(address_separator, at), value.size());
          holders[{address_name, value.substr(at, end - at)}].push_back(clone.name);
          at = end + std::string_view(address_separator).size();
        }
      else
        holders[{name, value}].push_back(clone.name);
  std::vector<std::string> shared;
  for (const auto& [what, names] : holders)
    if (names.size() > 1)
      shared.push_back(fmt::format("{}: {}", what.first, fmt::join(names, ", ")));
  return shared;
}

} // namespace kvmport
