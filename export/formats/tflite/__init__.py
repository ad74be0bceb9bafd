"""TensorFlow Lite: `lower` puts a graph in its terms, converters write it in a process of their own.
It imports nothing of export/ but the graph and its passes."""
