// The sidecars of kubernetes-csi that the driver's controller runs with, as their projects publish them (see ../control-plane).
module penstock.invalid/sidecars

go 1.26.0

require (
	github.com/kubernetes-csi/external-provisioner/v6 v6.4.0
	github.com/kubernetes-csi/external-resizer/v2 v2.3.0
	github.com/kubernetes-csi/external-snapshotter/v8 v8.7.0
)
