# One SpiNNaker board on a desk.

configuration = Configuration(
    machines=[Machine.single_board("my-board", bmp_ip="192.168.240.0", spinnaker_ip="192.168.240.1")]
)
