"""Server processes among themselves: sockets that they share, workers and who watches over them."""
