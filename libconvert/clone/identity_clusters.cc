// SPDX-License-Identifier: Apache-2.0
// Members of clusters, and servers that know themselves by a number. A member's copy is no new member: where it can
// join anew its credentials go, where it can't there is a warning.
#include "libconvert/clone/identity_rules.h"

#include <array>

namespace kvmport::identity {
namespace {

struct Member {
  const char* path;
  const char* warning;
};
constexpr std::array members{
    Member{"/etc/corosync/corosync.conf", "it is a member of a Corosync cluster, and so would the clone be"},
    Member{"/var/lib/etcd/member", "it is a member of an etcd cluster: remove /var/lib/etcd in the clone before it "
                                   "reaches the others"},
    Member{"/var/lib/ceph/osd/*", "it holds a Ceph OSD: two with one id damage the cluster"},
    Member{"/var/lib/ceph/mon/*", "it holds a Ceph monitor"},
    Member{"/var/lib/mysql/grastate.dat", "it is a member of a Galera cluster"},
    Member{"/etc/keepalived/keepalived.conf", "keepalived would claim the original's virtual addresses"},
    Member{"/etc/drbd.d/*.res", "DRBD would connect to the original's peer"},
    Member{"/etc/kubernetes/manifests/kube-apiserver.yaml",
           "it is a control plane of Kubernetes, which can't be cloned"},
};

void warn_of_members(const GuestInfo& info, const CloneIdentity&, Draft& draft) {
  for (const Member& member : members)
    if (const auto found = find_paths(info, draft, member.path); !found.empty())
      draft.warn(found.front().path + ": " + member.warning + "; it was left as it is");
}

void report_members(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const Member& member : members)
    for (const FoundPath& path : find_paths(info, draft, member.path))
      found.push_back({"cluster-members", path.path, "present"});
}

} // namespace

std::vector<IdentityRule> cluster_rules() {
  return {
      {.name = "docker",
       .summary = "Docker's engine id and its membership in a swarm",
       .paths = {"/var/lib/docker/engine-id", "/etc/docker/key.json", "/var/lib/docker/swarm/**"}},
      {.name = "kubernetes-node",
       .summary = "the credentials of a Kubernetes node: the clone must join by itself",
       .paths = {"/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/pki/*"},
       .unless = {{"/etc/kubernetes/manifests/kube-apiserver.yaml", "this is a control plane of Kubernetes"}}},
      {.name = "k3s-node",
       .summary = "the credentials of a node of k3s or RKE2, which asks for new ones with its token",
       .paths = {"/etc/rancher/node/password", "/var/lib/rancher/*/agent/*.key", "/var/lib/rancher/*/agent/*.crt",
                 "/var/lib/rancher/*/agent/*.kubeconfig"},
       .unless = {{"/var/lib/rancher/*/server/db", "this is a server of k3s or RKE2"}}},
      {.name = "mysql-server",
       .summary = "MySQL's server UUID, by which replication tells servers apart; it makes a new one",
       .paths = {"/var/lib/mysql/auto.cnf"}},
      {.name = "cluster-members",
       .summary = "warnings where the guest is a member of a cluster (Corosync, etcd, Ceph, Galera, DRBD, keepalived, "
                  "Kubernetes)",
       .edit = warn_of_members,
       .report = report_members},
  };
}

} // namespace kvmport::identity
